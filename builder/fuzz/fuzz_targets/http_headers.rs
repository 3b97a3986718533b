//! Headers of HTTP answers.
#![no_main]

use headnode::source::headers::{content_range, length, retry_after, validator};
use http::{HeaderMap, HeaderValue, header};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|values: (&[u8], &[u8], &[u8], &[u8])| {
    let (one, two, three, four) = values;
    let mut headers = HeaderMap::new();
    for (name, value) in [
        (header::CONTENT_LENGTH, one),
        (header::RETRY_AFTER, one),
        (header::ETAG, two),
        (header::LAST_MODIFIED, three),
        (header::CONTENT_RANGE, four),
    ] {
        if let Ok(value) = HeaderValue::from_bytes(value) {
            headers.append(name, value);
        }
    }
    let _ = (length(&headers), retry_after(&headers));
    if let Some(validator) = validator(&headers) {
        // It is sent back, to get more of the same.
        assert!(HeaderValue::from_str(&validator).is_ok());
        assert!(
            !validator.starts_with("W/")
                || headers.get(header::ETAG).is_none_or(|etag| etag != validator.as_str())
        );
    }
    if let Some((start, all)) = content_range(&headers) {
        let all = all.map_or("*".to_owned(), |all| all.to_string());
        let text = format!("bytes {start}-{start}/{all}");
        headers.insert(header::CONTENT_RANGE, HeaderValue::from_str(&text).expect("digits"));
        assert_eq!(content_range(&headers), Some((start, all.parse().ok())));
    }
});
