;; The gate must refuse it: `plugin` has a type where `configure` should be.
;; part CONFIGURE_EXPORT
(type (record (field "nothing" u8)))
