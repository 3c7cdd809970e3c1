// Who may do what. Owners use their sessions; writes can be switched off for everybody.
// VECTORS and SETTINGS_SCHEMA come from vectors.toml and settings.schema.json when this is built.

const RULES = [
  { name: "owner", text: "the session is the key's own" },
  { name: "not-owner", text: "the session belongs to another key" },
  { name: "read-only", text: "writes are switched off" },
];
const settings = { read_only: false };

export const plugin = {
  describe() {
    return { name: "@NAME@", version: "0.1.0", settingsSchema: SETTINGS_SCHEMA, rules: RULES, vectors: VECTORS };
  },
  configure(text) {
    // The gateway has checked them against the schema.
    Object.assign(settings, JSON.parse(text));
  },
};

export const access = {
  decide(who, place, what) {
    if (!owns(who, place)) return { allow: false, rule: 1 };
    const writes = what.tag === "command" && what.val.method.startsWith("write");
    return settings.read_only && writes ? { allow: false, rule: 2 } : { allow: true, rule: 0 };
  },
  judgeItems(who, place, tags) {
    const allow = owns(who, place);
    return tags.map(() => ({ allow, rule: allow ? 0 : 1 }));
  },
};

// A session that is being opened has no owner yet; the gateway's own readers have no key.
function owns(who, place) {
  return place.owner === "" || place.owner === who.id || who.id === "";
}
