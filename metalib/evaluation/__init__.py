"""What metamers are worth: criterion, representation test, transfer study, and their statistics."""

from metalib import names

__getattr__ = names.on_demand(__name__)
