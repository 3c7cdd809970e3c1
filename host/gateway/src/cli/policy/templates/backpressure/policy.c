// What happens to a slow reader: from a part of its bound on, only the newest value of each item.
// Vectors and schema come from vectors.toml and settings.schema.json when this is built.

#include "help.h"

static const char *const RULES[][2] = {
    {"keeps-up", "the reader keeps up"},
    {"behind", "the reader is far behind"},
};

static double conflate_at_percent = 50;

void exports_tidegate_policy_plugin_describe(exports_tidegate_policy_plugin_description_t *ret) {
  describe(ret, "@NAME@", "0.1.0", RULES, sizeof RULES / sizeof *RULES);
}

bool exports_tidegate_policy_plugin_configure(contract_string_t *settings, contract_string_t *err) {
  (void)err;
  char *json = terminated(*settings);
  conflate_at_percent = setting_number(json, "conflate_at_percent", conflate_at_percent);
  free(json);
  contract_string_free(settings);
  return true;
}

void exports_tidegate_policy_backpressure_decide(exports_tidegate_policy_backpressure_pressure_t *what,
                            exports_tidegate_policy_backpressure_answer_t *ret) {
  bool behind = what->lag_events * 100.0 >= what->lag_events_max * conflate_at_percent;
  ret->outcome.tag = behind ? EXPORTS_TIDEGATE_POLICY_BACKPRESSURE_OUTCOME_CONFLATE
                            : EXPORTS_TIDEGATE_POLICY_BACKPRESSURE_OUTCOME_WAIT;
  ret->rule = behind ? 1 : 0;
  ret->reason.is_some = false;
  exports_tidegate_policy_backpressure_pressure_free(what);
}
