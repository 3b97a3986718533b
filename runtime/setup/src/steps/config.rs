//! The configuration: read, or made from answers.

use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use headnode_model::answers::{Answer, Answers, PASSWORDS};
use headnode_model::config::{Config, Problems};
use headnode_model::paths;
use headnode_model::questions::{self, Asked, Facts, Hashes, SETUP_ID};

use crate::machine::Machine;
use crate::record::{on_key, on_pool, write_key};
use crate::run::{Context, Ended};

/// Finds the configuration: on the pool, on the key, or by the answers; then it is written to the
/// key, which marks that configuration is done (C§2.1).
pub fn configured(context: &mut Context<'_>) -> Result<Ended> {
    let machine = context.machine;
    let on_key_path = on_key(paths::CONFIG);
    for (path, whose) in [(on_pool(paths::CONFIG), "pool"), (on_key_path, "key")] {
        if whose == "key" && context.key.is_none() {
            continue;
        }
        let Some(bytes) = machine.read(&path)? else { continue };
        let config = parse(&bytes).with_context(|| format!("reading {}", path.display()))?;
        if whose == "pool"
            && !context.forgetful()
            && machine.read(&on_key(paths::CONFIG))?.is_none()
        {
            context.say("the key has no configuration: it gets the pool's");
            write_key(machine, paths::CONFIG, &bytes)?;
        }
        let line = summary(&config);
        context.config = Some(config);
        return Ok(Ended::Done(format!("{line} (from the {whose})")));
    }
    if context.key.is_none() {
        bail!("there is no configuration: neither {} nor a key", paths::USBKEY_CONFIG);
    }
    let config = ask(context)?;
    write_key(machine, paths::CONFIG, text(&config).as_bytes())?;
    let line = summary(&config);
    context.config = Some(config);
    Ok(Ended::Done(line))
}

/// Reads a configuration and checks that the services can work with it.
fn parse(bytes: &[u8]) -> Result<Config> {
    let text = std::str::from_utf8(bytes).context("it is not a text")?;
    let config = Config::parse(text)?;
    config.headnode()?;
    Ok(config)
}

fn text(config: &Config) -> String {
    format!("# Written by sdc-setup. KEY=VALUE lines that a shell can read.\n{config}")
}

fn summary(config: &Config) -> String {
    let value = |key| config.get(key).unwrap_or("?");
    format!(
        "datacenter {}, admin {} on {}",
        value("datacenter_name"),
        value("admin_ip"),
        value("admin_nic")
    )
}

/// The id of this setup: the record's, else the configuration's.
pub fn id(machine: &dyn Machine) -> Result<Option<String>> {
    let config = machine.read(&on_key(paths::CONFIG))?.and_then(|bytes| parse(&bytes).ok());
    Ok(config.and_then(|config| config.get(SETUP_ID).map(str::to_owned)))
}

fn ask(context: &mut Context<'_>) -> Result<Config> {
    let machine = context.machine;
    machine.settle(Duration::from_secs(30));
    let nics = machine.nics().context("listing the NICs")?;
    let facts = Facts {
        nics: Some(nics.iter().map(|nic| nic.mac).collect()),
        admin_nic: context.params.admin_nic(),
    };
    let mut answers: Answers = context.answers.clone();
    let mut outcome = questions::evaluate(&answers, &facts);
    for key in &outcome.unknown {
        context.say(format!("warning: {}: nobody reads the key {key:?}", paths::ANSWERS));
    }
    if !outcome.problems.is_empty() {
        return Err(anyhow::Error::new(Problems(outcome.problems))
            .context(format!("{} on the key cannot be used; correct it there", paths::ANSWERS)));
    }
    if !outcome.missing.is_empty() {
        if !machine.interactive() {
            let keys: Vec<_> = outcome.missing.iter().map(|q| q.key).collect();
            bail!(
                "{} on the key does not answer {}, and there is no console to ask on",
                paths::ANSWERS,
                keys.join(", ")
            );
        }
        outcome = interview(machine, &mut answers, &facts)?;
    }
    if context.record.id.is_empty() {
        context.record.id = machine.uuid();
        context.record.start_time = machine.now();
    }
    let [root, admin] =
        PASSWORDS.map(|(clear, hashed)| hashed_answer(machine, &answers, clear, hashed));
    let root = root?.context("the password of root is missing")?;
    let admin = admin?;
    let hashes = Hashes { root: &root, admin: admin.as_deref() };
    questions::config(&outcome, &answers, &context.record.id, hashes).map_err(anyhow::Error::new)
}

/// The hash of a password: the one in the answers, or that of the clear one there.
fn hashed_answer(
    machine: &dyn Machine,
    answers: &Answers,
    clear: &str,
    hashed: &str,
) -> Result<Option<String>> {
    match (answers.get(hashed), answers.get(clear)) {
        (Answer::Given(hash), _) => Ok(Some(hash)),
        (_, Answer::Given(password)) => {
            machine.hash_password(&password).with_context(|| format!("hashing {clear}")).map(Some)
        }
        _ => Ok(None),
    }
}

/// Puts the questions that are open. What the answers file answers is not asked.
fn interview(
    machine: &dyn Machine,
    answers: &mut Answers,
    facts: &Facts,
) -> Result<questions::Outcome> {
    loop {
        let outcome = questions::evaluate(answers, facts);
        if !outcome.problems.is_empty() {
            bail!("{}", Problems(outcome.problems));
        }
        let Some(question) = outcome.missing.iter().find(|q| q.asked != Asked::Never) else {
            return Ok(outcome);
        };
        let mut answer = machine.ask(
            question,
            questions::default(question.key, &outcome.values, facts),
            facts,
        )?;
        loop {
            let mut tried = answers.clone();
            tried.0.insert(question.key.to_owned(), answer.clone().into());
            let problems = questions::evaluate(&tried, facts).problems;
            if problems.is_empty() {
                *answers = tried;
                break;
            }
            println!("{}", Problems(problems));
            answer = machine.ask(question, None, facts)?;
        }
    }
}
