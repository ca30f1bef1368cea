// node --import ./with_token.mjs PROGRAM ...: PROGRAM speaks to $TARGET_ORIGIN with $MCP_BEARER as its credential.
// For programs that have no option for headers. A request that brings an Authorization header of its own keeps it.
import http from 'node:http';
import https from 'node:https';
import { createRequire } from 'node:module';
import tls from 'node:tls';

const token = process.env.MCP_BEARER;
const target = process.env.TARGET_ORIGIN && new URL(process.env.TARGET_ORIGIN);
if (!token || !target) throw new Error('with_token.mjs: set MCP_BEARER and TARGET_ORIGIN');
const value = `Bearer ${token}`;

const plainFetch = globalThis.fetch;
globalThis.fetch = (input, init) => {
  const url = input instanceof Request ? input.url : String(input);
  if (new URL(url).origin !== target.origin) return plainFetch(input, init);
  const headers = new Headers(init?.headers ?? (input instanceof Request ? input.headers : undefined));
  if (!headers.has('authorization')) headers.set('authorization', value);
  return plainFetch(input, { ...init, headers });
};

// Requests that bypass fetch. Whatever one says in its Host header, the certificate has to be the target's, and the
// target is reached over TLS also by programs that build a request from host and port alone.
const plainRequest = http.request;
http.request = function (options, answered) {
  const ours = options.port === target.port && (options.hostname ?? options.host) === target.hostname;
  if (!ours) return plainRequest.apply(this, arguments);
  const request = https.request({ ...options, servername: target.hostname }, answered);
  if (!request.hasHeader('authorization')) request.setHeader('authorization', value);
  return request;
};

const { Agent, getGlobalDispatcher, setGlobalDispatcher } = createRequire(process.argv[1])('undici');
const checkServerIdentity = (_, certificate) => tls.checkServerIdentity(target.hostname, certificate);
const named = new Agent({ connect: { checkServerIdentity } });
const withToken = (dispatch) => (options, handler) => {
  if (String(options.origin) !== target.origin) return dispatch(options, handler);
  return named.dispatch({ ...options, headers: { authorization: value, ...options.headers } }, handler);
};
setGlobalDispatcher(getGlobalDispatcher().compose(withToken));
