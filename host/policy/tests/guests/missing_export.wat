;; The gate must refuse it: `plugin` lacks `configure`.
;; part CONFIGURE_EXPORT
;; (nothing stands here)
