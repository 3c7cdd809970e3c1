// Who sees which session on the dashboard: administrators all, everybody else what the groups grant.
// Vectors and schema come from vectors.toml and settings.schema.json when this is built.

#include "help.h"

static const char *const RULES[][2] = {
    {"administrator", "administrators see everything"},
    {"granted", "what the groups grant"},
};

static texts_t common;

void exports_tidegate_policy_plugin_describe(exports_tidegate_policy_plugin_description_t *ret) {
  describe(ret, "@NAME@", "0.1.0", RULES, sizeof RULES / sizeof *RULES);
}

bool exports_tidegate_policy_plugin_configure(contract_string_t *settings, contract_string_t *err) {
  (void)err;
  char *json = terminated(*settings);
  common = setting_texts(json, "common");
  free(json);
  contract_string_free(settings);
  return true;
}

static void free_all(exports_tidegate_policy_dashboard_tags_person_t *who,
                     exports_tidegate_policy_dashboard_tags_list_grant_t *grants) {
  exports_tidegate_policy_dashboard_tags_person_free(who);
  exports_tidegate_policy_dashboard_tags_list_grant_free(grants);
}

void exports_tidegate_policy_dashboard_tags_sees(exports_tidegate_policy_dashboard_tags_person_t *who,
                            exports_tidegate_policy_dashboard_tags_list_grant_t *grants,
                            exports_tidegate_policy_dashboard_tags_answer_t *ret) {
  if (has(who->roles.ptr, who->roles.len, (contract_string_t){(uint8_t *)"Admin", 5})) {
    ret->sight.tag = EXPORTS_TIDEGATE_POLICY_DASHBOARD_TAGS_SIGHT_EVERYTHING;
    ret->rule = 0;
    free_all(who, grants);
    return;
  }
  contract_list_string_t *tags = &ret->sight.val.tags;
  ret->sight.tag = EXPORTS_TIDEGATE_POLICY_DASHBOARD_TAGS_SIGHT_TAGS;
  ret->rule = 1;
  *tags = (contract_list_string_t){malloc((common.len + grants->len) * sizeof *tags->ptr), 0};
  for (size_t n = 0; n < common.len + grants->len; n++) {
    if (n >= common.len && !has(who->groups.ptr, who->groups.len, grants->ptr[n - common.len].group)) continue;
    contract_string_t of = n < common.len ? common.ptr[n] : grants->ptr[n - common.len].tag;
    contract_string_dup_n(&tags->ptr[tags->len++], (const char *)of.ptr, of.len);
  }
  free_all(who, grants);
}
