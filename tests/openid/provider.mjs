// A real OpenID provider over HTTPS, for tests: node provider.mjs SETTINGS.json
// Settings: port (0: a free one), cert, key (files), jwks, clients, scopes, announce (file for its URL).
// Anybody may sign in as anybody: it is reached on loopback only, and trusted by test stacks only.
import { readFileSync, renameSync, writeFileSync } from 'node:fs';
import { createServer } from 'node:https';
import { createRequire } from 'node:module';
import { pathToFileURL } from 'node:url';

const settings = JSON.parse(readFileSync(process.argv[2], 'utf8'));
// This file lies in the repository, its packages in a cache.
const installed = createRequire(pathToFileURL(`${settings.packages}/`));
const { Provider } = await import(pathToFileURL(installed.resolve('oidc-provider')));

const server = createServer({ cert: readFileSync(settings.cert), key: readFileSync(settings.key) });
await new Promise((listening) => server.listen(settings.port, '127.0.0.1', listening));
const issuer = `https://localhost:${server.address().port}`;

const provider = new Provider(issuer, {
  clients: settings.clients,
  jwks: settings.jwks,
  cookies: { keys: ['of a test'] },
  scopes: ['openid', 'offline_access', ...settings.scopes],
  findAccount: (_, id) => ({ accountId: id, claims: () => ({ sub: id }) }),
  pkce: { required: () => true },
  features: {
    clientCredentials: { enabled: true },
    devInteractions: { enabled: true },
    resourceIndicators: {
      enabled: true,
      useGrantedResource: () => true,
      getResourceServerInfo: (_, resource) => ({
        scope: settings.scopes.join(' '),
        audience: resource,
        accessTokenTTL: 300,
        accessTokenFormat: 'jwt',
        jwt: { sign: { alg: 'ES256' } },
      }),
    },
  },
});
server.on('request', provider.callback());
writeFileSync(`${settings.announce}.part`, issuer);
renameSync(`${settings.announce}.part`, settings.announce);
