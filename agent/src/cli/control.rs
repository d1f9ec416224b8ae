//! Commands that tell the agent what to do: `join`, `leave`, `force-leave`, `reload`.

use super::command::{Call, CommonFlags, Failure, Flag, Outcome, Output, Spec, wait};
use super::help;

pub(super) static JOIN: Spec = Spec {
    path: "join",
    synopsis: "Makes the agent join a cluster",
    operands: "address ...",
    about: "Makes the agent join the cluster that it finds at one of the addresses. One member is \
enough: it knows the others.

    $ muster join 10.0.0.5
    $ muster join -wan 10.1.0.5:8302",
    flags: &[Flag::switch("wan", "Join a server of another datacenter.")],
    common_flags: CommonFlags::Api,
    run: join,
};

pub(super) static LEAVE: Spec = Spec {
    path: "leave",
    synopsis: "Makes the agent leave the cluster and end",
    operands: "",
    about: "Makes the agent say good-bye to its cluster and end. Its node and services leave the \
catalog at once; an agent that is only killed is first taken for failed.",
    flags: &[],
    common_flags: CommonFlags::Api,
    run: leave,
};

pub(super) static FORCE_LEAVE: Spec = Spec {
    path: "force-leave",
    synopsis: "Declares a failed member gone for good",
    operands: "name",
    about: "Declares a member gone that failed and will not come back, so that nobody tries to \
reach it any longer. A member that still runs will join again.",
    flags: &[Flag::switch("prune", "Also forget it: it leaves the list of members.")],
    common_flags: CommonFlags::Api,
    run: force_leave,
};

pub(super) static RELOAD: Spec = Spec {
    path: "reload",
    synopsis: "Makes the agent read its configuration again",
    operands: "",
    about: "Makes the agent read its configuration again and take over what can change while it \
runs. With a mistake in it nothing changes, and the mistake is printed.",
    flags: &[],
    common_flags: CommonFlags::Api,
    run: reload,
};

fn join(call: &Call) -> Outcome {
    if call.operands.is_empty() {
        return Err(call.misused("At least one address to join must be specified."));
    }
    let agent = call.client()?.agent();
    let wan = call.values.on("wan");
    let mut failures = String::new();
    let joined = wait(async {
        let mut joined = 0;
        for address in &call.operands {
            match agent.join(address, wan).await {
                Ok(()) => joined += 1,
                Err(error) => {
                    let failure =
                        call.failed(&format!("Error joining address '{address}'"), &error);
                    failures.push_str(&(failure.text + "\n"));
                }
            }
        }
        joined
    })?;
    if joined == 0 {
        return Err(Failure::new(failures + "Failed to join any nodes."));
    }
    let text = format!("Successfully joined cluster by contacting {joined} nodes.\n");
    Ok(Output { stderr: failures, ..Output::from(text) })
}

fn leave(call: &Call) -> Outcome {
    if !call.operands.is_empty() {
        return Err(Failure {
            stdout: help::command(call.program, call.spec).into_bytes(),
            ..Failure::new(format!("Error found unexpected args: [{}]", call.operands.join(" ")))
        });
    }
    wait(call.client()?.agent().leave())?.map_err(|error| call.failed("Error leaving", &error))?;
    Ok("Graceful leave complete\n".to_owned().into())
}

fn force_leave(call: &Call) -> Outcome {
    let [node] = call.operands.as_slice() else {
        return Err(call.misused("A single node name must be specified to force leave."));
    };
    wait(call.client()?.agent().force_leave(node, call.values.on("prune")))?
        .map_err(|error| call.failed("Error force leaving", &error))?;
    Ok(Output::default())
}

fn reload(call: &Call) -> Outcome {
    wait(call.client()?.agent().reload())?
        .map_err(|error| call.failed("Error reloading", &error))?;
    Ok("Configuration reload triggered\n".to_owned().into())
}
