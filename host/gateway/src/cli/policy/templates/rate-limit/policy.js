// How fast anyone may go: commands are limited, everything else is not.
// VECTORS and SETTINGS_SCHEMA come from vectors.toml and settings.schema.json when this is built.

const RULES = [
  { name: "not-limited", text: "only commands are limited" },
  { name: "commands", text: "commands have a bucket" },
];
const settings = { per_second: 50 };

export const plugin = {
  describe() {
    return { name: "@NAME@", version: "0.1.0", settingsSchema: SETTINGS_SCHEMA, rules: RULES, vectors: VECTORS };
  },
  configure(text) {
    // The gateway has checked them against the schema.
    Object.assign(settings, JSON.parse(text));
  },
};

export const rateLimit = {
  decide(who, what) {
    if (what.kind !== "invoke") return { outcome: { tag: "unlimited" }, rule: 0 };
    const bucket = { perSecond: settings.per_second, burst: 2 * settings.per_second };
    const missing = what.cost - (what.tokens ?? bucket.burst);
    const wait = Math.ceil((missing / bucket.perSecond) * 1000);
    return { outcome: missing > 0 ? { tag: "limit", val: wait } : { tag: "pass", val: bucket }, rule: 1 };
  },
};
