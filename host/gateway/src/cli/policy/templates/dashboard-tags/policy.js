// Who sees which session on the dashboard: administrators all, everybody else what the groups grant.
// VECTORS and SETTINGS_SCHEMA come from vectors.toml and settings.schema.json when this is built.

const RULES = [
  { name: "administrator", text: "administrators see everything" },
  { name: "granted", text: "what the groups grant" },
];
const settings = { common: [] };

export const plugin = {
  describe() {
    return { name: "@NAME@", version: "0.1.0", settingsSchema: SETTINGS_SCHEMA, rules: RULES, vectors: VECTORS };
  },
  configure(text) {
    // The gateway has checked them against the schema.
    Object.assign(settings, JSON.parse(text));
  },
};

export const dashboardTags = {
  sees(who, grants) {
    if (who.roles.includes("Admin")) return { sight: { tag: "everything" }, rule: 0 };
    const granted = grants.filter(({ group }) => who.groups.includes(group)).map(({ tag }) => tag);
    return { sight: { tag: "tags", val: [...settings.common, ...granted] }, rule: 1 };
  },
};
