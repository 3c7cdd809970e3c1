"""How fast anyone may go: commands are limited, everything else is not."""

import json
import math

from policy_files import SETTINGS_SCHEMA, VECTORS
from wit_world import exports
from wit_world.exports.rate_limit import Answer, Bucket, Outcome_Limit, Outcome_Pass, Outcome_Unlimited
from wit_world.exports.plugin import Description, Rule

RULES = [Rule("not-limited", "only commands are limited"), Rule("commands", "commands have a bucket")]
settings = {"per_second": 50}


class Plugin(exports.Plugin):
    def describe(self):
        return Description("@NAME@", "0.1.0", SETTINGS_SCHEMA, RULES, VECTORS)

    def configure(self, text):
        # The gateway has checked them against the schema.
        settings.update(json.loads(text))


class RateLimit(exports.RateLimit):
    def decide(self, who, what):
        if what.kind != "invoke":
            return Answer(Outcome_Unlimited(), 0)
        bucket = Bucket(float(settings["per_second"]), 2.0 * settings["per_second"])
        missing = what.cost - (bucket.burst if what.tokens is None else what.tokens)
        if missing > 0:
            return Answer(Outcome_Limit(math.ceil(missing / bucket.per_second * 1000)), 1)
        return Answer(Outcome_Pass(bucket), 1)
