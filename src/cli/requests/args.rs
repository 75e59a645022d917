//! What can be said of requests on the command line.

use std::time::Duration;

use clap::{Args, Subcommand};

use super::super::args::{LookArgs, ReadArgs, duration};
use crate::model::Moment;
use crate::model::supervise::RequestId;
use crate::reconcile::requests;
use crate::reconcile::requests::propose::Terms;

#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true)]
pub(in crate::cli) struct RequestsArgs {
    #[command(subcommand)]
    pub(super) command: Option<RequestsCommand>,
    #[command(flatten)]
    pub(super) list: ListArgs,
}

#[derive(Debug, Subcommand)]
pub(super) enum RequestsCommand {
    /// List what agents ask for, and nobody has decided
    List(ListArgs),
    /// Show a request, and what a yes would change
    Show(ShowArgs),
    /// Grant requests: edit the tree, commit, apply
    Approve(Box<ApproveArgs>),
    /// Refuse requests, with a word to the agent
    Deny(DenyArgs),
    /// Take back what was granted, as a new commit
    Undo(UndoArgs),
    /// Tell the agent that you did what it asked for by hand
    Resolve(ResolveArgs),
    /// Take no requests of a sandbox for a while
    Mute(MuteArgs),
    /// Take requests of a sandbox again
    Unmute(UnmuteArgs),
    /// Remove grants that have ended from the tree, as a commit
    Tidy(TidyArgs),
}

#[derive(Debug, Clone, Args)]
pub(in crate::cli) struct ListArgs {
    /// Also those that were decided
    #[arg(long)]
    pub(super) all: bool,
    /// Only those of this sandbox
    #[arg(long, value_name = "NAME")]
    #[arg(add = clap_complete::ArgValueCandidates::new(super::super::completions::agents))]
    pub(super) sandbox: Option<String>,
    /// Wait until there is one
    #[arg(long)]
    pub(super) wait: bool,
    /// Only what was granted, and until when
    #[arg(long, conflicts_with = "wait")]
    pub(super) grants: bool,
    #[command(flatten)]
    pub(super) read: ReadArgs,
}

#[derive(Debug, Args)]
pub(super) struct ShowArgs {
    /// The request
    #[arg(value_name = "ID")]
    pub(super) id: RequestId,
    /// Print the edit as a unified diff, for `git apply`
    #[arg(long)]
    pub(super) patch: bool,
    #[command(flatten)]
    pub(super) terms: TermArgs,
    #[command(flatten)]
    pub(super) look: LookArgs,
}

/// What is granted, where that is not what was asked for.
#[derive(Debug, Clone, Default, Args)]
pub(in crate::cli) struct TermArgs {
    /// The grant ends then: `10m`, `2h`, or a time as RFC 3339 has it
    #[arg(long, value_name = "TIME", value_parser = until)]
    pub(super) until: Option<Until>,
    /// Only these methods
    #[arg(long, value_name = "METHOD", num_args = 1.., value_delimiter = ',')]
    pub(super) methods: Option<Vec<String>>,
    /// Only these paths
    #[arg(long, value_name = "PATH", num_args = 1.., value_delimiter = ',')]
    #[arg(conflicts_with = "whole_host")]
    pub(super) paths: Option<Vec<String>>,
    /// Every path of the host
    #[arg(long)]
    pub(super) whole_host: bool,
    /// The name of the variable that holds the token of a new route
    #[arg(long, value_name = "NAME")]
    pub(super) token_ref: Option<String>,
    /// Also where that variable is not set, which holds every sandbox of the bottle
    #[arg(long)]
    pub(super) even_unset: bool,
}

#[derive(Debug, Args)]
pub(super) struct ApproveArgs {
    /// The requests: all of them in one commit, or none
    #[arg(value_name = "ID", required = true)]
    pub(super) ids: Vec<RequestId>,
    #[command(flatten)]
    pub(super) terms: TermArgs,
    /// Open what would be added in $EDITOR first, to narrow or widen it
    #[arg(long, conflicts_with = "yes")]
    pub(super) edit: bool,
    /// A word to the agent
    #[arg(long, value_name = "TEXT")]
    pub(super) message: Option<String>,
    /// Edit the file, and commit nothing
    #[arg(long)]
    pub(super) no_commit: bool,
    /// Edit and commit, and leave the rest to the next pass
    #[arg(long)]
    pub(super) no_apply: bool,
    /// Do not ask
    #[arg(short, long, requires = "review")]
    pub(super) yes: bool,
    /// What you saw, as `show -o json` names it
    #[arg(long, value_name = "TOKEN", requires = "yes")]
    pub(super) review: Option<String>,
    #[command(flatten)]
    pub(super) look: LookArgs,
}

#[derive(Debug, Args)]
pub(super) struct DenyArgs {
    /// The requests
    #[arg(value_name = "ID", required = true)]
    pub(super) ids: Vec<RequestId>,
    /// The word to the agent: what it may do instead
    #[arg(long, value_name = "TEXT")]
    pub(super) message: String,
    #[command(flatten)]
    pub(super) look: LookArgs,
}

#[derive(Debug, Args)]
pub(super) struct UndoArgs {
    /// The request
    #[arg(value_name = "ID")]
    pub(super) id: RequestId,
    /// Edit the file, and commit nothing
    #[arg(long)]
    pub(super) no_commit: bool,
    /// Edit and commit, and leave the rest to the next pass
    #[arg(long)]
    pub(super) no_apply: bool,
    #[command(flatten)]
    pub(super) look: LookArgs,
}

#[derive(Debug, Args)]
pub(super) struct ResolveArgs {
    /// The request
    #[arg(value_name = "ID")]
    pub(super) id: RequestId,
    /// The word to the agent: what you did
    #[arg(long, value_name = "TEXT")]
    pub(super) message: String,
    #[command(flatten)]
    pub(super) look: LookArgs,
}

#[derive(Debug, Args)]
pub(super) struct MuteArgs {
    /// The sandbox
    #[arg(value_name = "NAME", add = clap_complete::ArgValueCandidates::new(super::super::completions::agents))]
    pub(super) name: String,
    /// For so long
    #[arg(long = "for", value_name = "TIME", default_value = "1h", value_parser = duration)]
    pub(super) time: Duration,
    #[command(flatten)]
    pub(super) look: LookArgs,
}

#[derive(Debug, Args)]
pub(super) struct UnmuteArgs {
    /// The sandbox
    #[arg(value_name = "NAME", add = clap_complete::ArgValueCandidates::new(super::super::completions::agents))]
    pub(super) name: String,
    #[command(flatten)]
    pub(super) look: LookArgs,
}

#[derive(Debug, Args)]
pub(super) struct TidyArgs {
    /// Edit the files, and commit nothing
    #[arg(long)]
    pub(super) no_commit: bool,
    #[command(flatten)]
    pub(super) look: LookArgs,
}

/// Until when.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::cli) enum Until {
    /// So long from now.
    In(Duration),
    /// Then.
    At(Moment),
}

pub(in crate::cli) fn until(text: &str) -> Result<Until, String> {
    if let Some(moment) = Moment::parse(text) {
        return Ok(Until::At(moment));
    }
    duration(text).map(Until::In).map_err(|error| {
        format!(
            "{error}; or a time as RFC 3339 has it: 2026-01-31T12:00:00Z, with `Z` or an offset"
        )
    })
}

impl Until {
    /// To the second, as manifests have it.
    pub(super) fn moment(self) -> Moment {
        match self {
            Self::At(moment) => moment,
            Self::In(duration) => {
                let seconds = requests::now().0 / 1000 + duration.as_millis().div_ceil(1000) as u64;
                Moment::of_seconds(seconds)
            }
        }
    }
}

impl TermArgs {
    /// Those that are typed on a dashboard.
    pub(in crate::cli) fn of(until: Option<Until>, token_ref: Option<String>) -> Self {
        Self { until, token_ref, ..Self::default() }
    }

    pub(in crate::cli) fn terms(&self, message: Option<&String>) -> Terms {
        Terms {
            until: self.until.map(Until::moment),
            within: match self.until {
                Some(Until::In(duration)) => Some(duration),
                Some(Until::At(_)) | None => None,
            },
            methods: self.methods.clone(),
            paths: self.paths.clone(),
            whole_host: self.whole_host,
            token_ref: self.token_ref.clone(),
            even_unset: self.even_unset,
            message: message.cloned(),
            entry: None,
        }
    }
}
