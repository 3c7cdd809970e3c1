"""Who may do what. Owners use their sessions; writes can be switched off for everybody."""

import json

from policy_files import SETTINGS_SCHEMA, VECTORS
from wit_world import exports
from wit_world.exports.access import Action_Command, ItemVerdict
from wit_world.exports.plugin import Description
from wit_world.imports.types import Denial, Verdict_Allow, Verdict_Deny

RULES = ["owner", "not-owner", "read-only"]
settings = {"read_only": False}


class Plugin(exports.Plugin):
    def describe(self):
        return Description("@NAME@", "0.1.0", SETTINGS_SCHEMA, RULES, VECTORS)

    def configure(self, text):
        # The gateway has checked them against the schema.
        settings.update(json.loads(text))


class Access(exports.Access):
    def decide(self, who, where, what):
        if not owns(who, where):
            return Verdict_Deny(Denial(1, "the session belongs to another key"))
        if settings["read_only"] and isinstance(what, Action_Command) and what.value.method.startswith("write"):
            return Verdict_Deny(Denial(2, "writes are switched off"))
        return Verdict_Allow(0)

    def judge_items(self, who, where, tags):
        allow = owns(who, where)
        return [ItemVerdict(allow, 0 if allow else 1) for _ in tags]


def owns(who, where):
    # A session that is being opened has no owner yet; the gateway's own readers have no key.
    return where.owner in ("", who.id) or who.id == ""
