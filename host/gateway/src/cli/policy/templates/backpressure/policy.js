// What happens to a slow reader: from a part of its bound on, only the newest value of each item.
// VECTORS and SETTINGS_SCHEMA come from vectors.toml and settings.schema.json when this is built.

const settings = { conflate_at_percent: 50 };

export const plugin = {
  describe() {
    return { name: "@NAME@", version: "0.1.0", settingsSchema: SETTINGS_SCHEMA, rules: [], vectors: VECTORS };
  },
  configure(text) {
    // The gateway has checked them against the schema.
    Object.assign(settings, JSON.parse(text));
  },
};

export const backpressure = {
  decide(what) {
    // Counts are 64 bits wide; these fit a Number, whichever kind they come as.
    const behind = Number(what.lagEvents) * 100 >= Number(what.lagEventsMax) * settings.conflate_at_percent;
    return { tag: behind ? "conflate" : "wait" };
  },
};
