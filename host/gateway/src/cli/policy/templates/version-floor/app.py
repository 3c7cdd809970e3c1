"""Which versions may write: those of the floor and newer; some kinds of node always may."""

import json
import re

from componentize_py_types import Err
from policy_files import SETTINGS_SCHEMA, VECTORS
from wit_world import exports
from wit_world.exports.version_floor import Admission, Answer
from wit_world.exports.plugin import Description, Rule

RULES = [Rule("writes", "the version may write"), Rule("too-old", "the version is below the floor")]
settings = {"exempt": []}


class Plugin(exports.Plugin):
    def describe(self):
        return Description("@NAME@", "0.1.0", SETTINGS_SCHEMA, RULES, VECTORS)

    def configure(self, text):
        # The gateway has checked them against the schema.
        settings.update(json.loads(text))


class VersionFloor(exports.VersionFloor):
    def admit(self, who, floor):
        new_enough = floor is None or parsed(who.version) >= parsed(floor)
        if new_enough or who.kind in settings["exempt"]:
            return Answer(Admission.READ_WRITE, 0)
        return Answer(Admission.READ_ONLY, 1)


def parsed(text):
    if not re.fullmatch(r"(0|[1-9][0-9]*)\.(0|[1-9][0-9]*)", text):
        raise Err(f"`{text}` is not a version MAJOR.MINOR")
    major, minor = text.split(".")
    return int(major), int(minor)
