// How fast anyone may go: commands are limited, everything else is not.
// Vectors and schema come from vectors.toml and settings.schema.json when this is built.

#include "help.h"

static const char *const RULES[][2] = {
    {"not-limited", "only commands are limited"},
    {"commands", "commands have a bucket"},
};

static double per_second = 50;

void exports_tidegate_policy_plugin_describe(exports_tidegate_policy_plugin_description_t *ret) {
  describe(ret, "@NAME@", "0.1.0", RULES, sizeof RULES / sizeof *RULES);
}

bool exports_tidegate_policy_plugin_configure(contract_string_t *settings, contract_string_t *err) {
  (void)err;
  char *json = terminated(*settings);
  per_second = setting_number(json, "per_second", per_second);
  free(json);
  contract_string_free(settings);
  return true;
}

void exports_tidegate_policy_rate_limit_decide(tidegate_policy_types_principal_t *who,
                          exports_tidegate_policy_rate_limit_request_t *what,
                          exports_tidegate_policy_rate_limit_answer_t *ret) {
  tidegate_policy_types_principal_free(who);
  bool limited = is(what->kind, "invoke");
  exports_tidegate_policy_rate_limit_request_free(what);
  ret->rule = limited ? 1 : 0;
  ret->outcome.tag = EXPORTS_TIDEGATE_POLICY_RATE_LIMIT_OUTCOME_UNLIMITED;
  if (!limited) return;
  exports_tidegate_policy_rate_limit_bucket_t bucket = {per_second, 2 * per_second};
  double missing = what->cost - (what->tokens.is_some ? what->tokens.val : bucket.burst);
  if (missing > 0) {
    ret->outcome.tag = EXPORTS_TIDEGATE_POLICY_RATE_LIMIT_OUTCOME_LIMIT;
    ret->outcome.val.limit = (uint32_t)(missing / per_second * 1000 + 0.999999);
  } else {
    ret->outcome.tag = EXPORTS_TIDEGATE_POLICY_RATE_LIMIT_OUTCOME_PASS;
    ret->outcome.val.pass = bucket;
  }
}
