//! For tests elsewhere in the crate: looks at the tables and damages them, as a person with a shell would.

use super::Storage;
use rusqlite::types::ValueRef;

impl Storage {
    /// Every row as text, columns separated by `|`.
    pub(crate) async fn dump(&self, query: &'static str) -> Vec<String> {
        self.read(move |db| {
            let mut statement = db.prepare(query)?;
            let columns = statement.column_count();
            let rows = statement.query_map([], |row| {
                let cell = |at| {
                    Ok(match row.get_ref(at)? {
                        ValueRef::Null => "NULL".to_owned(),
                        ValueRef::Integer(number) => number.to_string(),
                        ValueRef::Text(text) => String::from_utf8_lossy(text).into_owned(),
                        other => format!("{other:?}"),
                    })
                };
                Ok((0..columns).map(cell).collect::<rusqlite::Result<Vec<_>>>()?.join("|"))
            })?;
            rows.collect()
        })
        .await
        .expect("reads")
    }

    pub(crate) async fn execute(&self, sql: &str) {
        let sql = sql.to_owned();
        self.write_sql(move |db| db.execute_batch(&sql)).await.expect("executes");
    }

    /// A write like anybody's.
    pub(crate) async fn touch(&self) {
        self.write_sql(|db| db.execute("UPDATE instance SET started_unix_ms = started_unix_ms + 1", []))
            .await
            .expect("writes");
    }
}
