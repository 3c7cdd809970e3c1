"""Who sees which session on the dashboard: administrators all, everybody else what the groups grant."""

import json

from policy_files import SETTINGS_SCHEMA, VECTORS
from wit_world import exports
from wit_world.exports.dashboard_tags import Sight_Everything, Sight_Tags
from wit_world.exports.plugin import Description

settings = {"common": []}


class Plugin(exports.Plugin):
    def describe(self):
        return Description("@NAME@", "0.1.0", SETTINGS_SCHEMA, [], VECTORS)

    def configure(self, text):
        # The gateway has checked them against the schema.
        settings.update(json.loads(text))


class DashboardTags(exports.DashboardTags):
    def sees(self, who, grants):
        if "Admin" in who.roles:
            return Sight_Everything()
        return Sight_Tags(settings["common"] + [tag for group, tag in grants if group in who.groups])
