// Text and settings for policies in C. The gateway has checked the settings against the schema before they get here,
// so what is found is of the right kind. Arguments of a call belong to the policy, which frees them; what it returns
// is freed by the contract's own code.
#pragma once

#include <stdlib.h>
#include <string.h>

#include "contract.h"
#include "policy_files.h"

static inline bool is(contract_string_t text, const char *other) {
  return text.len == strlen(other) && memcmp(text.ptr, other, text.len) == 0;
}

typedef struct {
  contract_string_t *ptr;
  size_t len;
} texts_t;

static inline bool same(contract_string_t a, contract_string_t b) {
  return a.len == b.len && memcmp(a.ptr, b.ptr, a.len) == 0;
}

static inline bool starts_with(contract_string_t text, const char *start) {
  return text.len >= strlen(start) && memcmp(text.ptr, start, strlen(start)) == 0;
}

static inline bool has(const contract_string_t *texts, size_t len, contract_string_t text) {
  for (size_t n = 0; n < len; n++) {
    if (same(texts[n], text)) return true;
  }
  return false;
}

// A copy, as answers have to be.
static inline contract_string_t text(const char *of) {
  contract_string_t copy;
  contract_string_dup(&copy, of);
  return copy;
}

// What the component says of itself.
static inline void describe(exports_tidegate_policy_plugin_description_t *ret, const char *name, const char *version,
                            const char *const rules[][2], size_t count) {
  ret->name = text(name);
  ret->version = text(version);
  ret->settings_schema = text(SETTINGS_SCHEMA);
  ret->vectors = text(VECTORS);
  ret->rules.len = count;
  ret->rules.ptr = malloc(count * sizeof *ret->rules.ptr);
  for (size_t n = 0; n < count; n++) {
    ret->rules.ptr[n].name = text(rules[n][0]);
    ret->rules.ptr[n].text = text(rules[n][1]);
  }
}

// What stands behind "name": in a JSON object without objects inside; NULL: it is not set.
static inline const char *setting(const char *json, const char *name) {
  size_t len = strlen(name);
  for (const char *at = json; (at = strstr(at, name)) != NULL; at += len) {
    if (at == json || at[-1] != '"' || at[len] != '"') continue;
    const char *behind = at + len + 1;
    while (strchr(" \t\r\n", *behind) != NULL && *behind != 0) behind++;
    if (*behind != ':') continue;
    do behind++;
    while (strchr(" \t\r\n", *behind) != NULL && *behind != 0);
    return behind;
  }
  return NULL;
}

static inline bool setting_true(const char *json, const char *name) {
  const char *at = setting(json, name);
  return at != NULL && *at == 't';
}

static inline double setting_number(const char *json, const char *name, double otherwise) {
  const char *at = setting(json, name);
  return at != NULL ? strtod(at, NULL) : otherwise;
}

// A list of texts, read once.
static inline texts_t setting_texts(const char *json, const char *name) {
  texts_t list = {NULL, 0};
  const char *at = setting(json, name);
  while (at != NULL && *at != ']' && *at != 0) {
    if (*at++ != '"') continue;
    const char *end = strchr(at, '"');
    list.ptr = realloc(list.ptr, (list.len + 1) * sizeof *list.ptr);
    contract_string_dup_n(&list.ptr[list.len++], at, end - at);
    at = end + 1;
  }
  return list;
}

// MAJOR.MINOR as one number that compares; -1: it is malformed.
static inline double version(contract_string_t of) {
  double parts[2] = {0, 0};
  size_t part = 0, digits = 0;
  for (size_t n = 0; n < of.len; n++) {
    uint8_t c = of.ptr[n];
    if (c == '.' && part == 0 && digits > 0) {
      part = 1;
      digits = 0;
    } else if (c >= '0' && c <= '9' && digits < 9 && !(digits > 0 && parts[part] == 0)) {
      parts[part] = parts[part] * 10 + (c - '0');
      digits++;
    } else {
      return -1;
    }
  }
  return part == 1 && digits > 0 ? parts[0] * 1e9 + parts[1] : -1;
}

// JSON as C text.
static inline char *terminated(contract_string_t json) {
  char *copy = malloc(json.len + 1);
  memcpy(copy, json.ptr, json.len);
  copy[json.len] = 0;
  return copy;
}
