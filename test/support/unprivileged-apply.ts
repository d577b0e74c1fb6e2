/**
 * Run by test/e2e/apply.test.ts as a user without privileges: boots, applies a site, asks it, reloads, ends nginx.
 * Arguments: an empty directory of that user, a port. Prints one JSON object.
 */

import { NginxHost } from './nginx-host.ts'

const [directory = '', port = ''] = process.argv.slice(2)
await using host = new NginxHost(directory)
const applier = await host.booted()
const first = await applier.apply(host.request([host.site('a', { port: Number(port) })]))
const second = await applier.apply(
  host.request([host.site('a', { port: Number(port), body: 'return 200 "second\\n";' })]),
)
const answer = await host.get(Number(port), 'a.test')
const low = await applier.apply(host.request([host.site('a', { port: Number(port) }), host.site('low', { port: 81 })]))
process.stdout.write(
  JSON.stringify({
    uid: process.getuid?.(),
    outcomes: [first.outcome, second.outcome, low.outcome],
    answer,
    isolated: low.isolated,
  }),
)
