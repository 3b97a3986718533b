//! What an iPXE script loads. Not an iPXE: it follows neither conditions nor jumps, and knows the
//! variables that a boot script sets, and those of the machine.

use std::collections::HashMap;

/// What a script loads first.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Loads {
    pub kernel: String,
    /// The first `initrd` or `module`: the boot archive.
    pub archive: Option<String>,
}

/// Reads a script; `known` are the machine's variables.
///
/// # Errors
/// What the script says to the operator, when it loads no kernel.
pub(crate) fn read(text: &str, known: &[(&str, String)]) -> Result<Loads, String> {
    if !text.starts_with("#!ipxe") {
        return Err("it does not begin with #!ipxe".to_owned());
    }
    let mut variables: HashMap<String, String> =
        known.iter().map(|(name, value)| ((*name).to_owned(), value.clone())).collect();
    let (mut kernel, mut archive, mut said) = (None, None, Vec::new());
    for line in text.lines() {
        let line = expand(line.trim(), &variables);
        let mut words = line.split_whitespace();
        match words.next() {
            Some("set") => {
                if let Some(name) = words.next() {
                    let value = words.collect::<Vec<_>>().join(" ");
                    variables.insert(name.to_owned(), value);
                }
            }
            Some("kernel") => kernel = kernel.or_else(|| location(words)),
            Some("initrd" | "module") => archive = archive.or_else(|| location(words)),
            Some("echo") => said.push(words.collect::<Vec<_>>().join(" ")),
            _ => {}
        }
    }
    match kernel {
        Some(kernel) => Ok(Loads { kernel, archive }),
        None => Err(said.join(" ").trim().to_owned()),
    }
}

/// The first word that is no option.
fn location<'a>(words: impl Iterator<Item = &'a str>) -> Option<String> {
    let mut words = words.skip_while(|word| word.starts_with('-'));
    words.next().map(str::to_owned)
}

fn expand(line: &str, variables: &HashMap<String, String>) -> String {
    let mut done = String::new();
    let mut rest = line;
    while let Some((before, after)) = rest.split_once("${") {
        let Some((name, tail)) = after.split_once('}') else { break };
        done.push_str(before);
        let name = name.split(':').next().unwrap_or(name);
        done.push_str(variables.get(name).map_or("", String::as_str));
        rest = tail;
    }
    done + rest
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn kernel_and_archive_are_found() {
        let text = "#!ipxe\nset base http://${next-server}/os\nimgfree\n\
            kernel -n unix ${base}/1/unix -B a=b || goto failed\n\
            module ${base}/1/boot_archive type=rootfs\nmodule ${base}/other\nboot\n";
        let loads = read(text, &[("next-server", "10.0.0.1".to_owned())]).unwrap();
        assert_eq!(loads.archive.as_deref(), Some("http://10.0.0.1/os/1/boot_archive"));
        let plain = read("#!ipxe\nkernel /os/1/unix x\n", &[]).unwrap();
        assert_eq!(plain, Loads { kernel: "/os/1/unix".to_owned(), archive: None });
    }

    #[test]
    fn a_script_without_a_kernel_says_why() {
        let said = read("#!ipxe\n:again\necho\necho no platform\nsleep 10\n", &[]);
        assert_eq!(said.unwrap_err(), "no platform");
        assert!(read("<html>", &[]).is_err());
    }

    proptest! {
        #[test]
        fn no_script_panics(text in "(#!ipxe\n)?[ -~\n]{0,80}(\\$\\{[a-z:]{0,4}\\}?)?") {
            drop(read(&text, &[]));
        }
    }
}
