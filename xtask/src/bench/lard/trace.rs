//! Recordings of calls, in the formats of the Azure Functions data sets, and a small one of our own.
//!
//! - 2021 (`AzureFunctionsInvocationTraceForTwoWeeksJan2021`): a line per call, `app,func,end_timestamp,duration`, times
//!   in seconds.
//! - 2019 (`AzureFunctionsDataset2019`, `invocations_per_function_md.anon.dNN.csv`): a line per function,
//!   `HashOwner,HashApp,HashFunction,Trigger,1,2,…,1440`, with how often it was called in each minute of a day. When
//!   within the minute, and for how long, it does not say: calls are spread evenly, and run as long as the median of
//!   the data set.

use std::collections::HashMap;
use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use anyhow::{Context, Result, bail, ensure};
use openlambda_policy::hash::Random;
use openlambda_policy::simulate::Invocation;

/// A recording.
#[derive(Debug, PartialEq)]
pub struct Recording {
    /// The calls in order of time.
    pub calls: Vec<Invocation>,
    /// How many functions there are.
    pub functions: u32,
}

const HEAD_2021: &str = "app,func,end_timestamp,duration";
const HEAD_2019: &str = "HashOwner,HashApp,HashFunction,Trigger,";

/// Shahrad et al., "Serverless in the Wild" (USENIX ATC 2020): average run times are log-normal, in seconds, with
/// these parameters of the logarithm.
const RUN_MU: f64 = -0.38;
const RUN_SIGMA: f64 = 2.36;
/// The longest run of the sample, in seconds: one of minutes would only hold a slot for the whole of it.
const RUN_CAP: f64 = 10.0;
/// The same: 18.6 % of the functions get 99.6 % of the calls, 29 % of functions are called by timers. Daily rates span
/// eight orders of magnitude; log-normal rates with this deviation have that share.
const RATE_SIGMA: f64 = 3.4;
const TIMERS: f64 = 0.29;
/// The sample's size.
const FUNCTIONS: u32 = 200;
const CALLS: usize = 4000;
const SECONDS: f64 = 600.0;

/// Reads a recording of either format.
pub fn read(path: &Path) -> Result<Recording> {
    let text = fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
    parse(&text).with_context(|| format!("{} is no recording", path.display()))
}

fn parse(text: &str) -> Result<Recording> {
    let mut lines = text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty());
    let (_, head) = lines.next().context("it is empty")?;
    let line = match head.trim() {
        head if head == HEAD_2021 => line_2021,
        head if head.starts_with(HEAD_2019) => line_2019,
        head => bail!("its first line is {head:?}, neither {HEAD_2021:?} nor {HEAD_2019:?}…"),
    };
    let mut functions = HashMap::new();
    let mut calls = Vec::new();
    for (number, text) in lines {
        let known = functions.len();
        line(text, &mut |name: &str| *functions.entry(name.to_owned()).or_insert(known as u32), &mut calls)
            .with_context(|| format!("line {} is {text:.60?}", number + 1))?;
    }
    ensure!(!calls.is_empty(), "no call is in it");
    calls.sort_by(|a, b| a.at_ms.total_cmp(&b.at_ms));
    let start = calls[0].at_ms;
    calls.iter_mut().for_each(|call| call.at_ms -= start);
    Ok(Recording { calls, functions: functions.len() as u32 })
}

type Number<'a> = &'a mut dyn FnMut(&str) -> u32;

fn line_2021(line: &str, function: Number<'_>, calls: &mut Vec<Invocation>) -> Result<()> {
    let fields: Vec<&str> = line.split(',').map(str::trim).collect();
    let [app, func, end, duration] = fields[..] else { bail!("it has {} fields, not 4", fields.len()) };
    let (end, duration): (f64, f64) = (end.parse()?, duration.parse()?);
    ensure!(end.is_finite() && duration.is_finite() && duration >= 0.0, "a time is out of range");
    let function = function(&format!("{app}/{func}"));
    calls.push(Invocation { at_ms: (end - duration) * 1000.0, function, exec_ms: duration * 1000.0 });
    Ok(())
}

fn line_2019(line: &str, function: Number<'_>, calls: &mut Vec<Invocation>) -> Result<()> {
    let fields: Vec<&str> = line.split(',').map(str::trim).collect();
    let [owner, app, func, _trigger, minutes @ ..] = &fields[..] else {
        bail!("it has {} fields, not the 4 of a function", fields.len())
    };
    let number = function(&format!("{owner}/{app}/{func}"));
    for (minute, count) in minutes.iter().enumerate() {
        let count: u32 = count.parse()?;
        for call in 0..count {
            // Half a step in, so that functions called once a minute are not all called at its beginning.
            let share = (f64::from(call) + phase(number)) / f64::from(count);
            let at_ms = (minute as f64 + share) * 60_000.0;
            calls.push(Invocation { at_ms, function: number, exec_ms: RUN_MU.exp() * 1000.0 });
        }
    }
    Ok(())
}

/// Where in its minute a function is called, 0 to 1.
fn phase(function: u32) -> f64 {
    Random::new(function.into()).unit()
}

/// Writes the sample.
pub fn write_sample(path: &Path) -> Result<()> {
    fs::write(path, sample(2021)).with_context(|| format!("cannot write {}", path.display()))?;
    println!("{CALLS} calls of {FUNCTIONS} functions in {SECONDS} s written to {}", path.display());
    Ok(())
}

fn sample(seed: u64) -> String {
    let mut random = Random::new(seed);
    let mut calls: Vec<(f64, u32, f64)> = Vec::new();
    let rates: Vec<f64> = (0..FUNCTIONS).map(|_| (RATE_SIGMA * random.normal()).exp()).collect();
    let all: f64 = rates.iter().sum();
    for (function, rate) in (0..).zip(&rates) {
        let mean = (RUN_MU + RUN_SIGMA * random.normal()).exp().min(RUN_CAP);
        let count = CALLS as f64 * rate / all;
        // What is left of a call is one with that chance.
        let count = count as usize + usize::from(random.unit() < count.fract());
        let timer = random.unit() < TIMERS;
        let phase = random.unit();
        for call in 0..count {
            let share = if timer { (call as f64 + phase) / count as f64 } else { random.unit() };
            calls.push((share * SECONDS, function, random.exponential(mean).min(RUN_CAP)));
        }
    }
    calls.sort_by(|a, b| (a.0 + a.2).total_cmp(&(b.0 + b.2)));
    let mut text = format!("{HEAD_2021}\n");
    for (start, function, run) in calls {
        // Three functions an app, as in the mean.
        let (app, end) = (function / 3, start + run);
        // Writing to a String cannot fail.
        let _ = writeln!(text, "app{app:03},func{function:03},{end:.3},{run:.3}");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_of_2021_is_a_call() {
        let text = "app,func,end_timestamp,duration\na,f,12.5,0.5\nb,f,11,1\na,f,13,0\n";
        let recording = parse(text).unwrap();
        let call = |at_ms, function, exec_ms| Invocation { at_ms, function, exec_ms };
        assert_eq!(recording.calls, [call(0.0, 1, 1000.0), call(2000.0, 0, 500.0), call(3000.0, 0, 0.0)]);
        assert_eq!(recording.functions, 2);
    }

    #[test]
    fn a_line_of_2019_is_a_function() {
        let text = "HashOwner,HashApp,HashFunction,Trigger,1,2,3\no,a,f,http,2,0,1\no,a,g,timer,0,0,0\n";
        let recording = parse(text).unwrap();
        assert_eq!((recording.calls.len(), recording.functions), (3, 2));
        let at: Vec<f64> = recording.calls.iter().map(|call| call.at_ms).collect();
        let phase = phase(0);
        assert!((at[1] - 30_000.0).abs() < 1e-6, "two in a minute are half a minute apart: {at:?}");
        assert!((at[2] - (120_000.0 + 60_000.0 * phase - 30_000.0 * phase)).abs() < 1e-6, "{at:?}");
    }

    #[test]
    fn nonsense_names_its_line() {
        for (text, part) in [
            ("", "it is empty"),
            ("a,b\n", "its first line is"),
            ("app,func,end_timestamp,duration\n", "no call"),
            ("app,func,end_timestamp,duration\na,f,1,0\na,f,1\n", "line 3"),
            ("app,func,end_timestamp,duration\na,f,x,0\n", "line 2"),
            ("app,func,end_timestamp,duration\na,f,1,-1\n", "line 2"),
            ("HashOwner,HashApp,HashFunction,Trigger,1\no,a,f,http,-1\n", "line 2"),
        ] {
            let error = format!("{:#}", parse(text).unwrap_err());
            assert!(error.contains(part), "{error}");
        }
    }

    #[test]
    fn the_sample_has_the_published_skew() {
        let recording = parse(&sample(2021)).unwrap();
        let mut counts = vec![0_usize; FUNCTIONS as usize];
        recording.calls.iter().for_each(|call| counts[call.function as usize] += 1);
        counts.sort_unstable_by(|a, b| b.cmp(a));
        let most: usize = counts[..(f64::from(FUNCTIONS) * 0.186) as usize].iter().sum();
        let share = most as f64 / recording.calls.len() as f64;
        assert!((0.97..=1.0).contains(&share), "18.6 % of functions get {share} of the calls");
        assert!(recording.calls.len().abs_diff(CALLS) < CALLS / 20);
    }
}
