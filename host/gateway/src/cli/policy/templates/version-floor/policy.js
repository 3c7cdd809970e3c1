// Which versions may write: those of the floor and newer; some kinds of node always may.
// VECTORS and SETTINGS_SCHEMA come from vectors.toml and settings.schema.json when this is built.

const settings = { exempt: [] };

export const plugin = {
  describe() {
    return { name: "@NAME@", version: "0.1.0", settingsSchema: SETTINGS_SCHEMA, rules: [], vectors: VECTORS };
  },
  configure(text) {
    // The gateway has checked them against the schema.
    Object.assign(settings, JSON.parse(text));
  },
};

export const versionFloor = {
  admit(who, floor) {
    // Nothing may be null or undefined.
    if (floor == null) return "read-write";
    const [have, need] = [parsed(who.version), parsed(floor)];
    const newEnough = have[0] !== need[0] ? have[0] > need[0] : have[1] >= need[1];
    return newEnough || settings.exempt.includes(who.kind) ? "read-write" : "read-only";
  },
};

function parsed(text) {
  if (!/^(0|[1-9][0-9]*)\.(0|[1-9][0-9]*)$/.test(text)) throw `\`${text}\` is not a version MAJOR.MINOR`;
  return text.split(".").map(Number);
}
