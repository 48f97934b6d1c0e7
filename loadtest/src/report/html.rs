//! Text that is safe to be put into a page. Knows no page.
//!
//! Invariant: markup is constant, and whatever is not constant is escaped: [`Html::markup`] takes nothing else, and
//! [`Html::text`] is the only way in for the rest.

use std::fmt::{self, Display, Write};

/// A piece of a page.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Html(String);

impl Html {
    /// A piece with nothing but this text in it.
    pub(super) fn of(text: impl Display) -> Self {
        let mut html = Self::default();
        html.text(text);
        html
    }

    /// Adds markup as it is.
    pub(super) fn markup(&mut self, constant: &'static str) -> &mut Self {
        self.0.push_str(constant);
        self
    }

    /// Adds text, between tags or within a quoted attribute.
    pub(super) fn text(&mut self, text: impl Display) -> &mut Self {
        // Writing to a String cannot fail.
        let _ = write!(Escaping(&mut self.0), "{text}");
        self
    }

    /// As it goes into the page.
    pub(super) fn as_str(&self) -> &str {
        &self.0
    }
}

struct Escaping<'a>(&'a mut String);

impl Write for Escaping<'_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for character in text.chars() {
            match character {
                '&' => self.0.push_str("&amp;"),
                '<' => self.0.push_str("&lt;"),
                '>' => self.0.push_str("&gt;"),
                '"' => self.0.push_str("&quot;"),
                '\'' => self.0.push_str("&#39;"),
                // Browsers drop it; a person should see that there was something.
                '\0' => self.0.push(char::REPLACEMENT_CHARACTER),
                other => self.0.push(other),
            }
        }
        Ok(())
    }
}

/// JSON as it can stand in a `script` element, which ends at `</script` and changes its ways at `<!--`, wherever they are.
/// In JSON these characters are in strings alone, where they may as well be written by number.
pub(super) fn script_json(json: &str) -> String {
    json.replace('<', r"\u003c").replace('>', r"\u003e").replace('&', r"\u0026")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_is_text_between_tags_and_in_attributes() {
        let html = Html::of("<img src=x onerror='a()'> & \"b\"");
        assert_eq!(html.as_str(), "&lt;img src=x onerror=&#39;a()&#39;&gt; &amp; &quot;b&quot;");
    }

    #[test]
    fn json_in_a_script_neither_ends_it_nor_opens_a_comment_and_is_the_same_json() {
        let value = serde_json::json!({"id": "</script><!--<script>&amp;\u{2028}"});
        let text = script_json(&value.to_string());
        assert!(!text.contains(['<', '>', '&']), "{text}");
        assert_eq!(serde_json::from_str::<serde_json::Value>(&text).unwrap(), value);
    }
}
