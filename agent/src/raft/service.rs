//! What this server answers to the others.

use openraft::errors::Fatal;
use openraft::raft::{AppendEntriesRequest, TransferLeaderRequest, VoteRequest};
use openraft::type_config::alias::SnapshotOf;

use super::bond::Invitation;
use super::consensus::Consensus;
use super::forward::Refused;
use super::leaving::Reconfiguration;
use super::reading::Certainty;
use super::sending::{Arrived, Piece};
use super::snapshots::Image;
use super::transport::Letter;
use super::types::Types;
use crate::rpc::{Handlers, Method, Refusal};
use crate::store::Change;

impl Consensus {
    /// Adds the answers of agreement to an agent's handlers.
    #[must_use]
    pub fn answer(&self, handlers: Handlers) -> Handlers {
        handlers
            .on(
                Method::Append,
                self.handler(|it, letter: Letter<AppendEntriesRequest<Types>>| async move {
                    it.check(&letter)?;
                    let answer =
                        it.inner.raft.append_entries(letter.body).await.map_err(Refusal::failed)?;
                    if answer.is_success() || answer.is_conflict() {
                        it.inner.contact.heard();
                    }
                    Ok(answer)
                }),
            )
            .on(
                Method::Vote,
                self.handler(|it, letter: Letter<VoteRequest<Types>>| async move {
                    it.check(&letter)?;
                    it.inner.raft.vote(letter.body).await.map_err(Refusal::failed)
                }),
            )
            .on(
                Method::PreVote,
                self.handler(|it, letter: Letter<VoteRequest<Types>>| async move {
                    it.check(&letter)?;
                    it.inner.raft.pre_vote(letter.body).await.map_err(Refusal::failed)
                }),
            )
            .on(
                Method::Transfer,
                self.handler(|it, letter: Letter<TransferLeaderRequest<Types>>| async move {
                    it.check(&letter)?;
                    it.inner.raft.handle_transfer_leader(letter.body).await.map_err(Refusal::failed)
                }),
            )
            .on(
                Method::Snapshot,
                self.handler(|it, letter: Letter<Piece>| async move {
                    it.check(&letter)?;
                    // A task of its own: a connection may break in the middle of a piece, and what
                    // has arrived so far must not go with it.
                    let taking = tokio::spawn(async move {
                        // Held until all is installed: the next one uses the same file.
                        let mut incoming = it.inner.incoming.lock().await;
                        let taken = incoming.take(letter.from, letter.body).await;
                        match taken.map_err(Refusal::failed)? {
                            Err(wants) => Ok(wants),
                            Ok(arrived) => {
                                let installed = it.install(arrived).await;
                                let installed = installed.map_err(Refusal::failed)?;
                                Ok(super::sending::Received::Installed(installed))
                            }
                        }
                    });
                    taking.await.map_err(Refusal::failed)?
                }),
            )
            .on(
                Method::Form,
                self.handler(|it, invitation: Invitation| async move {
                    let taking_part =
                        async { it.inner.raft.is_initialized().await.unwrap_or(true) };
                    let answer = it.inner.network.bonds.answer(&invitation, taking_part).await;
                    answer.map_err(Refusal::failed)
                }),
            )
            .on(
                Method::Propose,
                self.handler(|it, change: Change| async move {
                    Ok::<_, Refusal>(it.propose_here(change).await.map_err(Refused::from))
                }),
            )
            .on(
                Method::Reconfigure,
                self.handler(|it, letter: Letter<Reconfiguration>| async move {
                    it.check(&letter)?;
                    let done = it.reconfigure(letter.from, letter.body).await;
                    Ok::<_, Refusal>(done.map_err(Refused::from))
                }),
            )
            .on(
                Method::ReadIndex,
                self.handler(|it, certainty: Certainty| async move {
                    Ok::<_, Refusal>(it.read_index(certainty).await.map_err(Refused::from))
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

    /// Is a letter for this server, from its own cluster?
    fn check<T>(&self, letter: &Letter<T>) -> Result<(), Refusal> {
        let ours = self.inner.network.bonds.now().map(|bond| bond.cluster);
        if letter.to != self.inner.id {
            return Err(Refusal::failed(format!("this is server {}", self.inner.id)));
        }
        if ours != Some(letter.cluster) {
            return Err(Refusal::failed("this server is not in that cluster"));
        }
        Ok(())
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
