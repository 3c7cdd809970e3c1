"""Who may do what. Owners use their sessions; writes can be switched off for everybody."""

import json

from policy_files import SETTINGS_SCHEMA, VECTORS
from wit_world import exports
from wit_world.exports.access import Action_Command, ItemVerdict, Verdict
from wit_world.exports.plugin import Description, Rule

RULES = [
    Rule("owner", "the session is the key's own"),
    Rule("not-owner", "the session belongs to another key"),
    Rule("read-only", "writes are switched off"),
]
settings = {"read_only": False}


class Plugin(exports.Plugin):
    def describe(self):
        return Description("@NAME@", "0.1.0", SETTINGS_SCHEMA, RULES, VECTORS)

    def configure(self, text):
        # The gateway has checked them against the schema.
        settings.update(json.loads(text))


class Access(exports.Access):
    def decide(self, who, place, what):
        if not owns(who, place):
            return Verdict(False, 1, None)
        if settings["read_only"] and isinstance(what, Action_Command) and what.value.method.startswith("write"):
            return Verdict(False, 2, None)
        return Verdict(True, 0, None)

    def judge_items(self, who, place, tags):
        allow = owns(who, place)
        return [ItemVerdict(allow, 0 if allow else 1) for _ in tags]


def owns(who, place):
    # A session that is being opened has no owner yet; the gateway's own readers have no key.
    return place.owner in ("", who.id) or who.id == ""
