// Who may do what. Owners use their sessions; writes can be switched off for everybody.
// Vectors and schema come from vectors.toml and settings.schema.json when this is built.

#include "help.h"

static const char *const RULES[][2] = {
    {"owner", "the session is the key's own"},
    {"not-owner", "the session belongs to another key"},
    {"read-only", "writes are switched off"},
};

static bool read_only = false;

void exports_tidegate_policy_plugin_describe(exports_tidegate_policy_plugin_description_t *ret) {
  describe(ret, "@NAME@", "0.1.0", RULES, sizeof RULES / sizeof *RULES);
}

bool exports_tidegate_policy_plugin_configure(contract_string_t *settings, contract_string_t *err) {
  (void)err;
  char *json = terminated(*settings);
  read_only = setting_true(json, "read_only");
  free(json);
  contract_string_free(settings);
  return true;
}

// A session that is being opened has no owner yet; the gateway's own readers have no key.
static bool owns(tidegate_policy_types_principal_t *who, tidegate_policy_types_session_t *place) {
  return place->owner.len == 0 || who->id.len == 0 || same(place->owner, who->id);
}

void exports_tidegate_policy_access_decide(tidegate_policy_types_principal_t *who, tidegate_policy_types_session_t *place,
                      exports_tidegate_policy_access_action_t *what, exports_tidegate_policy_access_verdict_t *ret) {
  bool writes = what->tag == EXPORTS_TIDEGATE_POLICY_ACCESS_ACTION_COMMAND &&
                starts_with(what->val.command.method, "write");
  ret->rule = !owns(who, place) ? 1 : read_only && writes ? 2 : 0;
  ret->allow = ret->rule == 0;
  ret->reason.is_some = false;
  tidegate_policy_types_principal_free(who);
  tidegate_policy_types_session_free(place);
  exports_tidegate_policy_access_action_free(what);
}

void exports_tidegate_policy_access_judge_items(tidegate_policy_types_principal_t *who, tidegate_policy_types_session_t *place,
                           contract_list_string_t *tags, exports_tidegate_policy_access_list_item_verdict_t *ret) {
  bool allow = owns(who, place);
  ret->len = tags->len;
  ret->ptr = malloc(tags->len * sizeof *ret->ptr);
  for (size_t n = 0; n < tags->len; n++) ret->ptr[n] = (exports_tidegate_policy_access_item_verdict_t){allow, allow ? 0 : 1};
  tidegate_policy_types_principal_free(who);
  tidegate_policy_types_session_free(place);
  contract_list_string_free(tags);
}
