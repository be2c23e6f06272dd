"""Recipes, studies and profiles: YAML files of plain values, read as people mean them.

    recipe = read_yaml("recipe.yml")

PyYAML follows YAML 1.1, for which 1e-2 is a text, 12:30 the number 750 and 010 the number 8, and
takes the last of two equal keys. Here 1e-2 is a number, as in YAML 1.2; times, dates and numbers
that begin with 0 are texts; None is null; and a key given twice is an error.
"""

import re
from pathlib import Path
from typing import Any

import yaml

from metalib.plain import plain


class PlainLoader(yaml.SafeLoader):
    """Reads plain values only, and dicts whose keys are different texts."""

    yaml_implicit_resolvers = {}

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict:
        """The dict of a node; an error with the line of a key that is given twice or is no text."""
        seen = set()
        for key, _ in node.value:
            if key.tag == "tag:yaml.org,2002:merge":
                continue
            name = self.construct_object(key, deep=True)
            if not isinstance(name, str):
                raise yaml.MarkedYAMLError(
                    problem=f"the key {name!r} is no text; put it in quotes",
                    problem_mark=key.start_mark)
            if name in seen:
                raise yaml.MarkedYAMLError(problem=f"the key {name} is given twice",
                                           problem_mark=key.start_mark)
            seen.add(name)
        return super().construct_mapping(node, deep)


for _tag, _pattern in (
        ("null", r"~|null|Null|NULL|None|"),
        ("bool", r"yes|Yes|YES|no|No|NO|true|True|TRUE|false|False|FALSE|on|On|ON|off|Off|OFF"),
        ("int", r"[-+]?(0|[1-9][0-9_]*|0x[0-9a-fA-F_]+)"),
        ("float", r"[-+]?(\.[0-9]+|[0-9][0-9_]*(\.[0-9_]*([eE][-+]?[0-9]+)?|[eE][-+]?[0-9]+))"
                  r"|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)"),
        ("merge", r"<<")):
    PlainLoader.add_implicit_resolver(f"tag:yaml.org,2002:{_tag}", re.compile(f"(?:{_pattern})$"),
                                      None)


def read_yaml(path: str | Path) -> dict[str, Any]:
    """The keys and values of a YAML file.

    Raises:
        OSError: the file cannot be read.
        ValueError: it is not text in UTF-8, not YAML, or not keys and values; or a key is given
            twice. The message is one line, with the file and the line in it.
    """
    try:
        text = Path(path).read_bytes().decode("utf-8-sig")
        document = plain("what it holds", yaml.load(text, PlainLoader))
    except UnicodeDecodeError as error:
        line = error.object.count(b"\n", 0, error.start) + 1
        raise ValueError(f"{path}, line {line}: this is not text in UTF-8; "
                         "save the file in that encoding") from error
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        advice = "; indent by spaces, not by tabs" if r"'\t'" in str(error.problem) else ""
        raise ValueError(f"{path}, line {mark.line + 1 if mark else '?'}: {error.problem}{advice}"
                         ) from error
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        raise ValueError(f"{path}: {' '.join(str(error).split())[:300]}") from error
    if not isinstance(document, dict):
        found = ("nothing" if document is None else "a list" if isinstance(document, list)
                 else repr(document))
        raise ValueError(f"{path} must hold keys and values, such as `steps: 200`, not {found}")
    return document
