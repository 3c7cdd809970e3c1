// Who may do what. Owners use their sessions; writes can be switched off for everybody.
// VECTORS and SETTINGS_SCHEMA come from vectors.toml and settings.schema.json when this is built.

const RULES = ["owner", "not-owner", "read-only"];
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
  decide(who, where, what) {
    if (!owns(who, where)) return deny(1, "the session belongs to another key");
    if (settings.read_only && what.tag === "command" && what.val.method.startsWith("write")) {
      return deny(2, "writes are switched off");
    }
    return { tag: "allow", val: 0 };
  },
  judgeItems(who, where, tags) {
    const allow = owns(who, where);
    return tags.map(() => ({ allow, rule: allow ? 0 : 1 }));
  },
};

// A session that is being opened has no owner yet; the gateway's own readers have no key.
function owns(who, where) {
  return where.owner === "" || where.owner === who.id || who.id === "";
}

function deny(rule, reason) {
  return { tag: "deny", val: { rule, reason } };
}
