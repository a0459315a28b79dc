//! The client of the API server for what goes through a port-forward.

use hyper_util::client::legacy::Client as HttpClient;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use kube::client::{Body, ConfigExt as _};
use kube::{Client, Config};
use tower::{BoxError, ServiceBuilder};

/// One that sends what it has at once, as kube's own does not: of what goes through a port-forward in several pieces, each
/// would wait some 40 ms for the word that the one before has arrived.
/// Unlike kube's own it bounds only the time to connect: whoever uses it has deadlines of his own.
pub fn prompt(config: Config) -> kube::Result<Client> {
    if config.proxy_url.is_some() {
        // The way through a proxy is kube's own.
        return Client::try_from(config);
    }
    let mut connector = HttpConnector::new();
    connector.enforce_http(false);
    connector.set_nodelay(true);
    connector.set_connect_timeout(config.connect_timeout);
    let connector = config.rustls_https_connector_with_connector(connector)?;
    let http: HttpClient<_, Body> = HttpClient::builder(TokioExecutor::new()).build(connector);
    let service = ServiceBuilder::new()
        .layer(config.base_uri_layer())
        .option_layer(config.auth_layer()?)
        .layer(config.extra_headers_layer()?)
        .map_err(BoxError::from)
        .service(http);
    Ok(Client::new(service, config.default_namespace))
}
