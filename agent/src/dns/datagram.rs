//! A UDP socket whose answers leave from the address that the question came to.
//!
//! A socket on `0.0.0.0` or `::` belongs to every address of the host. The system would send answers
//! from the one that its routes prefer, and a client that asked another one takes no notice of
//! them. So such a socket asks the system where each packet came to, and says where its answer is
//! to leave from. A socket on one address does without, which costs less.

use std::io::{self, IoSlice, IoSliceMut};
use std::net::SocketAddr;
use std::os::fd::AsRawFd;

use nix::cmsg_space;
use nix::libc::{in_pktinfo, in6_pktinfo};
use nix::sys::socket::{
    ControlMessage, ControlMessageOwned, MsgFlags, SockaddrIn, SockaddrIn6, SockaddrStorage,
    recvmsg, sendmsg, setsockopt, sockopt,
};
use socket2::{Domain, Protocol, Socket, Type};
use tokio::io::Interest;
use tokio::net::UdpSocket;

/// Size of the socket's receive buffer, so that a burst is not lost.
const QUEUE_BYTES: usize = 4 << 20;

/// May several sockets have the address?
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Sharing {
    /// No.
    Alone,
    /// Those that say so.
    Shared,
}

/// The socket.
#[derive(Debug)]
pub(super) struct Datagrams {
    socket: UdpSocket,
    /// It belongs to every address of the host.
    wildcard: bool,
}

/// Address of the client, and the local address to answer from.
#[derive(Debug, Clone, Copy)]
pub(super) struct Peer {
    /// The client.
    pub(super) address: SocketAddr,
    own: Own,
}

/// The address of ours that a packet came to.
#[derive(Debug, Clone, Copy)]
enum Own {
    Any,
    V4(in_pktinfo),
    V6(in6_pktinfo),
}

impl Datagrams {
    /// A socket on `address`.
    pub(super) fn bind(address: SocketAddr, sharing: Sharing) -> io::Result<Datagrams> {
        let socket = Socket::new(Domain::for_address(address), Type::DGRAM, Some(Protocol::UDP))?;
        if address.is_ipv6() {
            // As TCP does: `::` takes IPv4, too.
            socket.set_only_v6(false)?;
        }
        if sharing == Sharing::Shared {
            socket.set_reuse_port(true)?;
        }
        let wildcard = address.ip().is_unspecified();
        if wildcard && address.is_ipv4() {
            setsockopt(&socket, sockopt::Ipv4PacketInfo, &true)?;
        } else if wildcard {
            setsockopt(&socket, sockopt::Ipv6RecvPacketInfo, &true)?;
        }
        // The system may grant less.
        let _ = socket.set_recv_buffer_size(QUEUE_BYTES);
        socket.set_nonblocking(true)?;
        socket.bind(&address.into())?;
        Ok(Datagrams { socket: UdpSocket::from_std(socket.into())?, wildcard })
    }

    /// Waits until there may be a packet.
    pub(super) async fn readable(&self) -> io::Result<()> {
        self.socket.readable().await
    }

    /// A packet, if there is one.
    pub(super) fn receive(&self, packet: &mut [u8]) -> io::Result<(usize, Peer)> {
        if !self.wildcard {
            let (length, address) = self.socket.try_recv_from(packet)?;
            return Ok((length, Peer { address, own: Own::Any }));
        }
        self.socket.try_io(Interest::READABLE, || receive_from(self.socket.as_raw_fd(), packet))
    }

    /// Sends a packet if that is possible now. A full queue is the same as a loss on the way.
    pub(super) fn send(&self, packet: &[u8], peer: Peer) -> io::Result<usize> {
        match peer.own {
            Own::Any => self.socket.try_send_to(packet, peer.address),
            own => self.socket.try_io(Interest::WRITABLE, || {
                send_from(self.socket.as_raw_fd(), packet, peer.address, own)
            }),
        }
    }

    /// Waits until a packet may be sent.
    pub(super) async fn writable(&self) -> io::Result<()> {
        self.socket.writable().await
    }
}

fn receive_from(socket: i32, packet: &mut [u8]) -> io::Result<(usize, Peer)> {
    let mut space = cmsg_space!(in_pktinfo, in6_pktinfo);
    let mut parts = [IoSliceMut::new(packet)];
    let got = recvmsg::<SockaddrStorage>(socket, &mut parts, Some(&mut space), MsgFlags::empty())?;
    let mut own = Own::Any;
    for message in got.cmsgs()? {
        match message {
            ControlMessageOwned::Ipv4PacketInfo(info) => own = Own::V4(info),
            ControlMessageOwned::Ipv6PacketInfo(info) => own = Own::V6(info),
            _ => {}
        }
    }
    let address = got.address.as_ref().and_then(|address| {
        let v4 = address.as_sockaddr_in().map(|it| SocketAddr::from((it.ip(), it.port())));
        v4.or_else(|| address.as_sockaddr_in6().map(|it| SocketAddr::V6((*it).into())))
    });
    let address = address.ok_or(io::ErrorKind::InvalidData)?;
    Ok((got.bytes, Peer { address, own }))
}

fn send_from(socket: i32, packet: &[u8], peer: SocketAddr, own: Own) -> io::Result<usize> {
    let parts = [IoSlice::new(packet)];
    let flags = MsgFlags::empty();
    let (v4, v6);
    let control = match own {
        Own::Any => None,
        // The interface is the routes' business again; only the address is said.
        Own::V4(info) => {
            v4 = in_pktinfo { ipi_ifindex: 0, ..info };
            Some(ControlMessage::Ipv4PacketInfo(&v4))
        }
        Own::V6(info) => {
            // An address that is one on its own link only needs the link said, too.
            let linked = matches!(peer, SocketAddr::V6(peer) if peer.scope_id() != 0);
            v6 = if linked { info } else { in6_pktinfo { ipi6_ifindex: 0, ..info } };
            Some(ControlMessage::Ipv6PacketInfo(&v6))
        }
    };
    let control = control.as_slice();
    let sent = match peer {
        SocketAddr::V4(peer) => {
            sendmsg(socket, &parts, control, flags, Some(&SockaddrIn::from(peer)))
        }
        SocketAddr::V6(peer) => {
            sendmsg(socket, &parts, control, flags, Some(&SockaddrIn6::from(peer)))
        }
    };
    Ok(sent?)
}
