/** What both sandboxes of an import leave out, and what they ask instead of upstreams. Pure. */

/** Something that answers in the place of an upstream. */
export interface StandIn {
  /** stream: TCP and UDP, whatever is said. */
  readonly protocol: 'http' | 'fastcgi' | 'stream'
  /** An address of loopback with a port, or a socket below the sandbox. */
  readonly at: string
}

/** Directives that write, ask others, count by time, or need what the sandbox does not have. */
const DROPPED =
  /^(?:error_log|\w+_temp_path|ssl_\w+|http2\w*|http3\w*|quic\w*|proxy_ssl\w*|grpc_ssl_\w+|resolver\w*|stub_status|mirror\w*|zone|resolve|sticky|keepalive_timeout|reset_timedout_connection|limit_\w*rate\w*|limit_(?:req|conn)\w*)$/

export function matchesDropped(name: string): boolean {
  return DROPPED.test(name)
}
