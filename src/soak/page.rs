//! The report as a page: one file that holds everything it shows, for whoever has a browser.

/// What the program puts its figures in the place of.
const PLACE: &str = "\"RUN_GOES_HERE\"";

const REPORT: &str = include_str!("page/report.html");
const COMPARE: &str = include_str!("page/compare.html");

/// The page of a run, by its JSON.
pub fn report(run: &str) -> String {
    REPORT.replacen(PLACE, &embedded(run), 1)
}

/// Two runs side by side.
pub fn compare(first: &str, second: &str) -> String {
    COMPARE.replacen(PLACE, &embedded(&format!("[{first},{second}]")), 1)
}

/// JSON within a page: nothing in it may end the element that it stands in.
fn embedded(json: &str) -> String {
    json.replace('<', "\\u003c")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_holds_its_run_and_nothing_in_a_run_ends_it() {
        for template in [REPORT, COMPARE] {
            assert_eq!(template.matches(PLACE).count(), 1);
            assert!(!template.contains("http://") || !template.contains("src=\"http"), "a page loads nothing");
        }
        let page = report(r#"{"command":"</script><script>alert(1)"}"#);
        assert!(page.contains(r#"{"command":"\u003c/script>\u003cscript>alert(1)"}"#));
        assert!(compare("{\"a\":1}", "{\"b\":2}").contains("[{\"a\":1},{\"b\":2}]"));
    }
}
