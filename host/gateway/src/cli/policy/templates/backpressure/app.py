"""What happens to a slow reader: from a part of its bound on, only the newest value of each item."""

import json

from policy_files import SETTINGS_SCHEMA, VECTORS
from wit_world import exports
from wit_world.exports.backpressure import Answer_Conflate, Answer_Wait
from wit_world.exports.plugin import Description

settings = {"conflate_at_percent": 50}


class Plugin(exports.Plugin):
    def describe(self):
        return Description("@NAME@", "0.1.0", SETTINGS_SCHEMA, [], VECTORS)

    def configure(self, text):
        # The gateway has checked them against the schema.
        settings.update(json.loads(text))


class Backpressure(exports.Backpressure):
    def decide(self, what):
        behind = what.lag_events * 100 >= what.lag_events_max * settings["conflate_at_percent"]
        return Answer_Conflate() if behind else Answer_Wait()
