//! Handlers for the calls of other servers.

use openraft::async_runtime::WatchReceiver;
use openraft::errors::Fatal;
use openraft::raft::{AppendEntriesRequest, TransferLeaderRequest, VoteRequest};
use openraft::type_config::alias::SnapshotOf;

use super::consensus::Consensus;
use super::forward::Refused;
use super::judge::{self, Own};
use super::transport::Envelope;
use super::types::{ServerId, Types};
use crate::raft::membership::bootstrap::INVITATION_MAX;
use crate::raft::membership::leave::Reconfiguration;
use crate::raft::membership::promise::{Acceptance, Invitation};
use crate::raft::read_index::Confirmation;
use crate::raft::snapshot::files::Image;
use crate::raft::snapshot::transfer::{Arrived, Piece};
use crate::rpc::{Handlers, Method, Refusal};
use crate::store::Change;

impl Consensus {
    /// Adds the answers of agreement to an agent's handlers.
    #[must_use]
    pub fn answer(&self, handlers: Handlers) -> Handlers {
        handlers
            .on(
                Method::Append,
                self.handler(|it, envelope: Envelope<AppendEntriesRequest<Types>>| async move {
                    it.check(&envelope, judge::append)?;
                    let answer = it
                        .inner
                        .raft
                        .append_entries(envelope.body)
                        .await
                        .map_err(Refusal::failed)?;
                    if answer.is_success() || answer.is_conflict() {
                        it.inner.contact.heard();
                    }
                    Ok(answer)
                }),
            )
            .on(
                Method::Vote,
                self.handler(|it, envelope: Envelope<VoteRequest<Types>>| async move {
                    it.check(&envelope, judge::vote)?;
                    it.inner.raft.vote(envelope.body).await.map_err(Refusal::failed)
                }),
            )
            .on(
                Method::PreVote,
                self.handler(|it, envelope: Envelope<VoteRequest<Types>>| async move {
                    it.check(&envelope, judge::vote)?;
                    it.inner.raft.pre_vote(envelope.body).await.map_err(Refusal::failed)
                }),
            )
            .on(
                Method::Transfer,
                self.handler(|it, envelope: Envelope<TransferLeaderRequest<Types>>| async move {
                    it.check(&envelope, judge::transfer)?;
                    it.inner
                        .raft
                        .handle_transfer_leader(envelope.body)
                        .await
                        .map_err(Refusal::failed)
                }),
            )
            .on(
                Method::Snapshot,
                self.handler(|it, envelope: Envelope<Piece>| async move {
                    it.check(&envelope, |own, from, piece| piece.judge(own, from))?;
                    // A task of its own: a connection may break in the middle of a piece, and what
                    // has arrived so far must not go with it.
                    let taking = tokio::spawn(async move {
                        // Held until all is installed: the next one uses the same file, and is not
                        // kept in memory meanwhile.
                        let Ok(mut incoming) = it.inner.incoming.try_lock() else {
                            return Err(Refusal::busy("a piece of a snapshot is being taken"));
                        };
                        let taken = incoming.take(envelope.from, envelope.body).await;
                        match taken.map_err(Refusal::failed)? {
                            Err(wants) => Ok(wants),
                            Ok(arrived) => {
                                let installed = it.install(arrived).await;
                                let installed = installed.map_err(Refusal::failed)?;
                                Ok(crate::raft::snapshot::transfer::Received::Installed(installed))
                            }
                        }
                    });
                    taking.await.map_err(Refusal::failed)?
                }),
            )
            .on(
                Method::Form,
                self.handler(|it, invitation: Invitation| async move {
                    it.check_invitation(&invitation).await?;
                    let taking_part =
                        async { it.inner.raft.is_initialized().await.unwrap_or(true) };
                    let answer = it.inner.network.promises.answer(&invitation, taking_part).await;
                    answer.map_err(Refusal::failed)
                }),
            )
            .on(
                Method::Propose,
                self.handler(|it, change: Change| async move {
                    judge::change(&change).map_err(Refusal::malformed)?;
                    Ok(it.propose_here(change).await.map_err(Refused::from))
                }),
            )
            .on(
                Method::Reconfigure,
                self.handler(|it, envelope: Envelope<Reconfiguration>| async move {
                    it.check(&envelope, |_, _, _| Ok(()))?;
                    let done = it.reconfigure(envelope.from, envelope.body).await;
                    Ok::<_, Refusal>(done.map_err(Refused::from))
                }),
            )
            .on(
                Method::ReadIndex,
                self.handler(|it, confirmation: Confirmation| async move {
                    Ok::<_, Refusal>(it.read_index(confirmation).await.map_err(Refused::from))
                }),
            )
    }

    /// A handler that has this handle.
    fn handler<Q, R, F>(
        &self,
        handle: F,
    ) -> impl Fn(Q, crate::rpc::Caller) -> R + Send + Sync + 'static
    where
        F: Fn(Consensus, Q) -> R + Send + Sync + 'static,
    {
        let consensus = self.clone();
        move |request, _| handle(consensus.clone(), request)
    }

    /// Is a letter for this server, from its own cluster and from a server that is known? Only then its body is judged.
    fn check<T>(
        &self,
        envelope: &Envelope<T>,
        judge: impl FnOnce(&Own, ServerId, &T) -> Result<(), String>,
    ) -> Result<(), Refusal> {
        let ours = self.inner.network.promises.now().map(|promise| promise.cluster);
        if envelope.to != self.inner.id {
            return Err(Refusal::failed(format!("this is server {}", self.inner.id)));
        }
        if ours != Some(envelope.cluster) {
            return Err(Refusal::failed("this server is not in that cluster"));
        }
        if envelope.from == self.inner.id {
            return Err(Refusal::malformed("a letter in the name of its addressee"));
        }
        if !self.knows(envelope.from) {
            return Err(Refusal::malformed(format!(
                "server `{}` is not known here",
                envelope.from
            )));
        }
        judge(&self.own(), envelope.from, &envelope.body).map_err(Refusal::malformed)
    }

    /// Does an invitation come from a server that gossip has told of, and does that server say so itself? A promise
    /// is for good: one to a cluster that nobody forms would keep this server out of all others.
    async fn check_invitation(&self, invitation: &Invitation) -> Result<(), Refusal> {
        let network = &self.inner.network;
        if invitation.to != network.me
            || invitation.asks
            || network.promises.is_of(invitation.cluster)
        {
            return Ok(());
        }
        let from = invitation.from.unwrap_or(invitation.founder);
        if !invitation.formed && from != invitation.founder {
            return Err(Refusal::malformed(format!(
                "server `{from}` invites to a cluster that server `{}` is to form",
                invitation.founder
            )));
        }
        let address = network.known_servers.borrow().address(from).filter(|_| from != network.me);
        let Some(address) = address else {
            return Err(Refusal::malformed(format!(
                "an invitation from server `{from}`, of which gossip has not told"
            )));
        };
        let question =
            Invitation { to: from, from: Some(network.me), asks: true, ..invitation.clone() };
        let deadline = tokio::time::Instant::now() + INVITATION_MAX;
        match network.pool.call(address, Method::Form, &question, deadline).await {
            Ok(Acceptance::Accepted) => Ok(()),
            Ok(_) => Err(Refusal::malformed(format!(
                "server `{from}` knows nothing of the invitation in its name"
            ))),
            Err(error) => Err(Refusal::failed(format!("who invites cannot be asked: {error}"))),
        }
    }

    /// Has gossip told of this server, or does it take part?
    fn knows(&self, id: ServerId) -> bool {
        let roles = self.inner.roles.borrow_watched();
        roles.membership_config.membership().get_node(&id).is_some()
            || self.inner.network.known_servers.borrow().servers.contains_key(&id)
    }

    async fn install(
        &self,
        arrived: Arrived,
    ) -> Result<openraft::raft::SnapshotResponse<Types>, Fatal<Types>> {
        let Arrived { vote, snapshot } = arrived;
        let snapshot: SnapshotOf<Types, Image> = snapshot;
        self.inner.contact.heard();
        self.inner.raft.install_full_snapshot(vote, snapshot).await
    }
}
