//! A request's body as form, files and JSON: what a client meant to send, beside the bytes that came.

use std::convert::Infallible;

use bytes::Bytes;
use multer::Multipart;

use super::{Lists, data, lists};
use crate::echo::query::Query;

/// What a body says, by its type. A body that is not what its type says is no reason to refuse it: that is what an
/// inspection is for.
#[derive(Debug, Default)]
pub(super) struct Form {
    pub(super) fields: Lists,
    pub(super) files: Lists,
    pub(super) json: Option<serde_json::Value>,
    /// Why the body is not what its type says.
    pub(super) error: Option<String>,
}

impl Form {
    pub(super) async fn read(content_type: &str, content: &Bytes) -> Self {
        let media_type = content_type.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
        let mut form = Self::default();
        let read = match media_type.as_str() {
            _ if content.is_empty() => Ok(()),
            "application/x-www-form-urlencoded" => form.read_urlencoded(content),
            "multipart/form-data" => form.read_multipart(content_type, content).await,
            json if json == "application/json" || json.ends_with("+json") => form.read_json(content),
            _ => Ok(()),
        };
        form.error = read.err();
        form
    }

    fn read_urlencoded(&mut self, content: &[u8]) -> Result<(), String> {
        let text = std::str::from_utf8(content).map_err(|error| format!("form: {error}"))?;
        let query = Query::parse(text).map_err(|bad| format!("form: {bad}"))?;
        self.fields = lists(query.iter());
        Ok(())
    }

    fn read_json(&mut self, content: &[u8]) -> Result<(), String> {
        self.json = Some(serde_json::from_slice(content).map_err(|error| format!("json: {error}"))?);
        Ok(())
    }

    /// RFC 7578. The parts before one that is broken are kept.
    async fn read_multipart(&mut self, content_type: &str, content: &Bytes) -> Result<(), String> {
        let told = |error: multer::Error| format!("multipart: {error}");
        let boundary = multer::parse_boundary(content_type).map_err(told)?;
        let content = Ok::<_, Infallible>(content.clone());
        let mut parts = Multipart::new(futures_util::stream::iter([content]), boundary);
        while let Some(part) = parts.next_field().await.map_err(told)? {
            let name = part.name().unwrap_or_default().to_owned();
            let is_file = part.file_name().is_some();
            let media_type = part.content_type().map(ToString::to_string).unwrap_or_default();
            let bytes = part.bytes().await.map_err(told)?;
            let lists = if is_file { &mut self.files } else { &mut self.fields };
            lists.entry(name).or_default().push(data(&bytes, &media_type).into_owned());
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(content_type: &str, content: &[u8]) -> Form {
        let content = Bytes::copy_from_slice(content);
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(Form::read(content_type, &content))
    }

    #[test]
    fn a_form_a_file_and_a_document_are_read_by_their_type() {
        let form = read("application/x-www-form-urlencoded; charset=utf-8", b"a=1&a=2&b=%C3%BC");
        assert_eq!(form.fields["a"], ["1", "2"]);
        assert_eq!((&form.fields["b"][..], form.error), (&["ü".to_owned()][..], None));

        let body = b"--x\r\ncontent-disposition: form-data; name=\"a\"\r\n\r\n1\r\n--x\r\ncontent-disposition: form-data; \
            name=\"f\"; filename=\"f.bin\"\r\ncontent-type: image/png\r\n\r\n\xff\x00\r\n--x--\r\n";
        let form = read("multipart/form-data; boundary=x", body);
        assert_eq!((&form.fields["a"][0][..], &form.files["f"][0][..]), ("1", "data:image/png;base64,/wA="));

        let form = read("application/problem+json", b"{\"a\": [1, null]}");
        assert_eq!(form.json.unwrap()["a"][0], 1);
    }

    #[test]
    fn a_body_that_is_not_what_its_type_says_is_told_and_not_refused() {
        for (content_type, content) in [
            ("application/json", "{"),
            ("application/json", &"[".repeat(100_000)),
            ("application/x-www-form-urlencoded", "a=%zz"),
            ("multipart/form-data", "--x"),
            ("multipart/form-data; boundary=x", "--x\r\nno end"),
        ] {
            let form = read(content_type, content.as_bytes());
            assert!(form.error.is_some() && form.json.is_none() && form.fields.is_empty(), "{content_type}");
        }
        assert!(read("application/json", b"").error.is_none(), "nothing was sent, so nothing is wrong");
    }
}
