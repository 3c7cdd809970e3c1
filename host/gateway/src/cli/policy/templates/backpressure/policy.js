// What happens to a slow reader: from a part of its bound on, only the newest value of each item.
// VECTORS and SETTINGS_SCHEMA come from vectors.toml and settings.schema.json when this is built.

const RULES = [
  { name: "keeps-up", text: "the reader keeps up" },
  { name: "behind", text: "the reader is far behind" },
];
const settings = { conflate_at_percent: 50 };

export const plugin = {
  describe() {
    return { name: "@NAME@", version: "0.1.0", settingsSchema: SETTINGS_SCHEMA, rules: RULES, vectors: VECTORS };
  },
  configure(text) {
    // The gateway has checked them against the schema.
    Object.assign(settings, JSON.parse(text));
  },
};

export const backpressure = {
  decide(what) {
    const behind = what.lagEvents * 100 >= what.lagEventsMax * settings.conflate_at_percent;
    return { outcome: { tag: behind ? "conflate" : "wait" }, rule: behind ? 1 : 0 };
  },
};
