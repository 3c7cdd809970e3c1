// Which versions may write: those of the floor and newer; some kinds of node always may.
// Vectors and schema come from vectors.toml and settings.schema.json when this is built.

#include "help.h"

static const char *const RULES[][2] = {
    {"writes", "the version may write"},
    {"too-old", "the version is below the floor"},
};

static texts_t exempt;

void exports_tidegate_policy_plugin_describe(exports_tidegate_policy_plugin_description_t *ret) {
  describe(ret, "@NAME@", "0.1.0", RULES, sizeof RULES / sizeof *RULES);
}

bool exports_tidegate_policy_plugin_configure(contract_string_t *settings, contract_string_t *err) {
  (void)err;
  char *json = terminated(*settings);
  exempt = setting_texts(json, "exempt");
  free(json);
  contract_string_free(settings);
  return true;
}

bool exports_tidegate_policy_version_floor_admit(exports_tidegate_policy_version_floor_node_t *who, contract_string_t *maybe_floor,
                            exports_tidegate_policy_version_floor_answer_t *ret, contract_string_t *err) {
  double have = version(who->version), need = maybe_floor ? version(*maybe_floor) : 0;
  bool let_off = has(exempt.ptr, exempt.len, who->kind);
  exports_tidegate_policy_version_floor_node_free(who);
  if (maybe_floor) contract_string_free(maybe_floor);
  if (have < 0 || need < 0) {
    *err = text("a version is not MAJOR.MINOR");
    return false;
  }
  bool writes = have >= need || let_off;
  ret->admission = writes ? EXPORTS_TIDEGATE_POLICY_VERSION_FLOOR_ADMISSION_READ_WRITE
                          : EXPORTS_TIDEGATE_POLICY_VERSION_FLOOR_ADMISSION_READ_ONLY;
  ret->rule = writes ? 0 : 1;
  return true;
}
