"""What metamers are worth: criterion, representation test, transfer study, and their statistics."""
