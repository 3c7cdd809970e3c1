// Which versions may write: those of the floor and newer; some kinds of node always may.
// VECTORS and SETTINGS_SCHEMA come from vectors.toml and settings.schema.json when this is built.

const RULES = [
  { name: "writes", text: "the version may write" },
  { name: "too-old", text: "the version is below the floor" },
];
const settings = { exempt: [] };

export const plugin = {
  describe() {
    return { name: "@NAME@", version: "0.1.0", settingsSchema: SETTINGS_SCHEMA, rules: RULES, vectors: VECTORS };
  },
  configure(text) {
    // The gateway has checked them against the schema.
    Object.assign(settings, JSON.parse(text));
  },
};

export const versionFloor = {
  admit(who, floor) {
    // `none` is null or undefined, depending on the tools.
    if (floor == null) return { admission: "read-write", rule: 0 };
    const [have, need] = [parsed(who.version), parsed(floor)];
    const newEnough = have[0] !== need[0] ? have[0] > need[0] : have[1] >= need[1];
    const writes = newEnough || settings.exempt.includes(who.kind);
    return writes ? { admission: "read-write", rule: 0 } : { admission: "read-only", rule: 1 };
  },
};

function parsed(text) {
  if (!/^(0|[1-9][0-9]*)\.(0|[1-9][0-9]*)$/.test(text)) throw `\`${text}\` is not a version MAJOR.MINOR`;
  return text.split(".").map(Number);
}
