"""What happens to a slow reader: from a part of its bound on, only the newest value of each item."""

import json

from policy_files import SETTINGS_SCHEMA, VECTORS
from wit_world import exports
from wit_world.exports.backpressure import Answer, Outcome_Conflate, Outcome_Wait
from wit_world.exports.plugin import Description, Rule

RULES = [Rule("keeps-up", "the reader keeps up"), Rule("behind", "the reader is far behind")]
settings = {"conflate_at_percent": 50}


class Plugin(exports.Plugin):
    def describe(self):
        return Description("@NAME@", "0.1.0", SETTINGS_SCHEMA, RULES, VECTORS)

    def configure(self, text):
        # The gateway has checked them against the schema.
        settings.update(json.loads(text))


class Backpressure(exports.Backpressure):
    def decide(self, what):
        behind = what.lag_events * 100 >= what.lag_events_max * settings["conflate_at_percent"]
        return Answer(Outcome_Conflate(), 1, None) if behind else Answer(Outcome_Wait(), 0, None)
