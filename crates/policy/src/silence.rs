//! Whether an agent that says nothing is still there: asked at its admin port, where another thread answers than the one
//! that its calls keep busy.
//!
//! - It is asked when nothing is known of it, when its report is old, and sooner if it owes answers.
//! - No word at all is silence; a refusal is not: then the machine is well, and connections to a process that is gone
//!   break by themselves.
//! - Silence counts only for one that has answered before: of another it is not known whether it can.
//! - One that is silent for a while is [`Verdict::Mute`], which costs nothing if it is wrong; much later it is
//!   [`Verdict::Gone`], and nobody waits for it any longer.

use crate::Time;
use crate::backoff::Backoff;

/// One that owes answers and has said nothing for so long is asked.
const OWES_FOR: Time = Time::from_secs(1);
/// Between two questions to one that has answered before.
const PAUSE: (Time, Time) = (Time::from_millis(500), Time::from_secs(1));
/// So many questions without a word make one mute.
const MUTE_AFTER: u32 = 2;
/// So many, and so long without a word, make it gone. Machines pause for seconds (a guest is moved, a disk hangs) and go
/// on as if nothing had been; a handler's time does not matter, since the question is not put to the handler.
const GONE_AFTER: (u32, Time) = (3, Time::from_secs(4));

/// What is known of an agent when it is to be decided whether to ask.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Standing {
    /// For how long it has said nothing; `None` if it never did.
    pub quiet: Option<Time>,
    /// The age of its last report; `None` if there is none.
    pub report: Option<Time>,
    /// Whether there are calls that it owes answers to.
    pub owes: bool,
}

/// What silence means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Nothing yet.
    Unknown,
    /// Others first.
    Mute,
    /// Who waits for it waits in vain.
    Gone,
}

/// What questions to one agent came to.
#[derive(Clone, Debug, Default)]
pub struct Silence {
    answered: bool,
    unanswered: u32,
    pause: Backoff,
}

impl Silence {
    /// Whether to ask now; a report is old after `every`.
    pub fn is_due(&self, standing: Standing, every: Time, now: Time) -> bool {
        let over = |age: Option<Time>, limit| age.is_none_or(|age| age >= limit);
        let owes = standing.owes && over(standing.quiet, OWES_FOR);
        !self.pause.is_open(now) && (!self.answered || owes || over(standing.report, every))
    }

    /// It answered.
    pub fn answered(&mut self) {
        *self = Self { answered: true, unanswered: 0, pause: Backoff::new(PAUSE.0, PAUSE.1) };
    }

    /// It refused, or what answered was something else.
    pub fn refused(&mut self, now: Time) {
        self.unanswered = 0;
        self.pause.fail(now);
    }

    /// Not a word came in time; `quiet` as in [`Standing`].
    pub fn unanswered(&mut self, quiet: Option<Time>, now: Time) -> Verdict {
        self.pause.fail(now);
        if !self.answered {
            return Verdict::Unknown;
        }
        self.unanswered = self.unanswered.saturating_add(1);
        // It may have answered calls meanwhile.
        let Some(quiet) = quiet.filter(|quiet| *quiet >= OWES_FOR) else { return Verdict::Unknown };
        match self.unanswered {
            n if n >= GONE_AFTER.0 && quiet >= GONE_AFTER.1 => Verdict::Gone,
            n if n >= MUTE_AFTER => Verdict::Mute,
            _ => Verdict::Unknown,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const EVERY: Time = Time::from_secs(2);
    const PATIENCE: Time = Time::from_millis(700);

    fn standing(quiet: Time, owes: bool) -> Standing {
        Standing { quiet: Some(quiet), report: Some(quiet), owes }
    }

    /// Asks as often as it is due, without an answer, and tells when which verdict came.
    fn silent(silence: &mut Silence, owes: bool) -> Vec<(u128, Verdict)> {
        let (mut now, mut verdicts) = (Time::ZERO, Vec::new());
        while now < Time::from_secs(8) {
            now += Time::from_millis(100);
            if silence.is_due(standing(now, owes), EVERY, now) {
                now += PATIENCE;
                verdicts.push((now.as_millis(), silence.unanswered(Some(now), now)));
            }
        }
        verdicts
    }

    #[test]
    fn one_that_owes_answers_is_mute_and_then_gone() {
        let mut silence = Silence::default();
        silence.answered();
        use Verdict::{Gone, Mute, Unknown};
        let expected = [(1700, Unknown), (2900, Mute), (4600, Gone), (6300, Gone), (8000, Gone)];
        assert_eq!(silent(&mut silence, true), expected);
        silence.answered();
        assert_eq!(silent(&mut silence, false)[0], (2700, Unknown), "one that owes nothing is asked later");
    }

    #[test]
    fn what_never_answered_may_not_be_able_to() {
        let mut silence = Silence::default();
        assert!(silence.is_due(standing(Time::ZERO, false), EVERY, Time::ZERO), "so it is asked at once");
        assert!(silent(&mut silence, true).iter().all(|(_, verdict)| *verdict == Verdict::Unknown));
    }

    #[test]
    fn a_word_to_a_caller_and_a_refusal_are_no_silence() {
        let mut silence = Silence::default();
        silence.answered();
        let long = Some(Time::from_secs(60));
        assert_eq!(silence.unanswered(long, Time::ZERO), Verdict::Unknown);
        for second in 1..9 {
            assert_eq!(silence.unanswered(Some(Time::ZERO), Time::from_secs(second)), Verdict::Unknown);
        }
        silence.refused(Time::from_secs(9));
        assert_eq!(silence.unanswered(long, Time::from_secs(10)), Verdict::Unknown, "counted anew");
        assert_eq!(silence.unanswered(long, Time::from_secs(11)), Verdict::Mute);
    }
}
