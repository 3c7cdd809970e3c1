"""Who sees which session on the dashboard: administrators all, everybody else what the groups grant."""

import json

from policy_files import SETTINGS_SCHEMA, VECTORS
from wit_world import exports
from wit_world.exports.dashboard_tags import Answer, Sight_Everything, Sight_Tags
from wit_world.exports.plugin import Description, Rule

RULES = [Rule("administrator", "administrators see everything"), Rule("granted", "what the groups grant")]
settings = {"common": []}


class Plugin(exports.Plugin):
    def describe(self):
        return Description("@NAME@", "0.1.0", SETTINGS_SCHEMA, RULES, VECTORS)

    def configure(self, text):
        # The gateway has checked them against the schema.
        settings.update(json.loads(text))


class DashboardTags(exports.DashboardTags):
    def sees(self, who, grants):
        if "Admin" in who.roles:
            return Answer(Sight_Everything(), 0)
        granted = [grant.tag for grant in grants if grant.group in who.groups]
        return Answer(Sight_Tags(settings["common"] + granted), 1)
