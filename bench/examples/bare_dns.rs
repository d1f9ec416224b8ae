//! A bare hickory-server that answers every question with one constant address: what the library
//! itself costs, and so the limit that the agent's DNS interface is measured against.
//!
//!     cargo run --release -p muster-bench --example bare_dns -- 127.0.0.1:5300

use std::net::SocketAddr;

use anyhow::{Context, Result};
use hickory_server::Server;
use hickory_server::net::runtime::Time;
use hickory_server::proto::op::{Edns, Header, HeaderCounts, Metadata};
use hickory_server::proto::rr::rdata::A;
use hickory_server::proto::rr::{Name, RData, Record};
use hickory_server::server::{Request, RequestHandler, ResponseHandler, ResponseInfo};
use hickory_server::zone_handler::MessageResponseBuilder;
use tokio::net::UdpSocket;

struct Constant(Record);

#[async_trait::async_trait]
impl RequestHandler for Constant {
    async fn handle_request<R: ResponseHandler, T: Time>(
        &self,
        request: &Request,
        mut response: R,
    ) -> ResponseInfo {
        let metadata = Metadata::response_from_request(&request.metadata);
        let edns = request.edns.as_ref().map(|asked| {
            let mut edns = Edns::new();
            edns.set_max_payload(asked.max_payload());
            edns
        });
        let builder = MessageResponseBuilder::new(&request.queries, edns.as_ref());
        let answer = builder.build(metadata, [&self.0], [], [], []);
        match response.send_response(answer).await {
            Ok(info) => info,
            Err(_) => Header { metadata, counts: HeaderCounts::default() }.into(),
        }
    }
}

#[tokio::main]
async fn main() -> Result<()> {
    let address = std::env::args().nth(1).context("where? give an address, 127.0.0.1:5300")?;
    let address: SocketAddr = address.parse().context("not an address")?;
    let name = Name::from_ascii("web.service.consul.")?;
    let record = Record::from_rdata(name, 0, RData::A(A::new(10, 0, 0, 1)));
    let mut server = Server::new(Constant(record));
    server.register_socket(UdpSocket::bind(address).await?);
    Ok(server.block_until_done().await?)
}
