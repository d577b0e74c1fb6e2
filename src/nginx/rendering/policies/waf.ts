/**
 * nginx text of the policy type `waf`: for rules of one's own a variable that names the first that fits, for the Core Rule
 * Set a file of ModSecurity's with what the policy says of it. The set itself is loaded once for each site, since every
 * loading takes a tenth of a second and 16 MiB. Pure.
 */

import { requestVariable } from '../../../core/resources/conditions.ts'
import type { CoreRuleSetSpec, WafRule, WafSpec } from '../../../core/resources/policies/waf.ts'
import { block, when } from '../lines.ts'
import { isMet, NEEDS, unsupported } from '../needs.ts'
import { escapeRegex, literal, plain } from '../quote.ts'
import { bounded, judgedLines, sought } from '../regex.ts'
import { filePath, unitFile } from '../unit-files.ts'
import type { PolicyContext, PolicyFault, PolicyText } from './policy-text.ts'

/** A status that nothing else answers with, so that who refused can be told. */
const REFUSED = 470

export function renderWaf(spec: WafSpec, context: PolicyContext): PolicyText | PolicyFault {
  if (spec.mode === 'off') return {}
  const own = ownRules(spec, context)
  if (spec.coreRuleSet === undefined) return own
  const set = coreRuleSet(spec.coreRuleSet, spec.mode, context)
  return 'code' in set ? set : { ...own, ...set, guards: [...(own.guards ?? []), ...(set.guards ?? [])] }
}

// ---------------------------------------------------------------------------------------------- rules of one's own

function ownRules({ rules, mode }: WafSpec, { path, scope }: PolicyContext): PolicyText {
  const entries = Object.entries(rules).toSorted(([a], [b]) => (a < b ? -1 : 1))
  // One digit for each condition of each rule; the first rule whose digits are all 1 counts.
  const conditions = entries.flatMap(([id, rule]) => conditionsOf(rule).map((condition) => ({ id, ...condition })))
  const digits = conditions.map((_, index) => `$${scope}_${index}`).join('')
  const decision = (name: string, found: readonly (readonly [string, WafRule])[]) => {
    if (found.length === 0) return []
    const patterns = found.map(([id]) => {
      const pattern = conditions.map((condition) => (condition.id === id ? '1' : '.')).join('')
      return `${plain(`~^${pattern}`)} ${literal(`${path}#${id}`)};`
    })
    return block(`map "${digits}" $${scope}_${name}`, ['default "";', ...patterns])
  }
  const isBlocking = ([, { detectOnly }]: readonly [string, WafRule]) => mode === 'block' && !detectOnly
  const refusing = entries.filter(isBlocking)
  const reporting = entries.filter((entry) => !isBlocking(entry))
  return {
    http: [
      ...conditions.flatMap(({ variable, pattern }, index) =>
        // What could not be judged is refused.
        block(`map $${variable} $${scope}_${index}`, judgedLines(pattern, 1)),
      ),
      ...decision('refused', refusing),
      ...decision('reported', reporting),
    ],
    guards: [
      ...when(reporting.length > 0, `set $nxmesh_reported $${scope}_reported;`),
      ...when(refusing.length > 0, `if ($${scope}_refused) { set $nxmesh_refused $${scope}_refused; return 403; }`),
    ],
    judgedHeaders: entries.flatMap(([, { userAgent, headers = {} }]) => [
      ...when(userAgent !== undefined, 'User-Agent'),
      ...Object.keys(headers),
    ]),
  }
}

/** What a request must meet: a variable, and a pattern of nginx's maps. */
function conditionsOf({ methods = [], path, query, userAgent, headers = {} }: WafRule) {
  const method = `~^(?:${methods.toSorted().map(escapeRegex).join('|')})\\z`
  const found = [{ variable: 'request_method', pattern: methods.length === 0 ? undefined : method }]
  const patterns = { uri: path, args: query, http_user_agent: userAgent }
  for (const [variable, regex] of Object.entries(patterns)) found.push({ variable, pattern: regex && anyCase(regex) })
  for (const [name, regex] of Object.entries(headers))
    found.push({ variable: requestVariable('http_', name), pattern: anyCase(regex) })
  return found.flatMap(({ variable, pattern }) => (pattern === undefined ? [] : [{ variable, pattern }]))
}

function anyCase(regex: string): string {
  // A decoded line feed hides nothing.
  return `~*${bounded(sought(regex), { dotAll: true })}`
}

// ---------------------------------------------------------------------------------------------- the Core Rule Set

function coreRuleSet(
  spec: CoreRuleSetSpec,
  mode: 'detect' | 'block',
  { path, host, capabilities }: PolicyContext,
): PolicyText | PolicyFault {
  if (!isMet(NEEDS.coreRuleSet, capabilities)) return unsupported(path, NEEDS.coreRuleSet, capabilities)
  if (host.crsDirectory === undefined)
    return fault(
      'coreRuleSet needs the OWASP Core Rule Set, which is not on this host',
      'install it, or set nginx.crs_directory',
    )
  const shared = unitFile(sharedRules(host.crsDirectory), 'modsecurity', 'master')
  const own = unitFile(policyRules(spec, mode), 'modsecurity', 'master')
  return {
    server: [
      `modsecurity_rules_file ${filePath(host, shared)};`,
      ...block('location @nxmesh_waf_refused', ['set $nxmesh_refused $nxmesh_waf;', 'return 403;']),
    ],
    guards: [
      `set $nxmesh_waf ${literal(path)};`,
      'modsecurity on;',
      // What the error log says of a request is found by what the access log says of it.
      'modsecurity_transaction_id $request_id;',
      `modsecurity_rules_file ${filePath(host, own)};`,
      // Each finding is a line of this level.
      'error_log logs/error.log info;',
      `error_page ${REFUSED} =403 @nxmesh_waf_refused;`,
    ],
    files: [shared, own],
    modules: [NEEDS.coreRuleSet.module],
    loadsRules: true,
  }
}

/** The same for all policies of a host: a site loads it once. */
function sharedRules(directory: string): string {
  return lines([
    'SecRequestBodyAccess On',
    'SecRequestBodyLimit 13107200',
    'SecRequestBodyNoFilesLimit 131072',
    // A long body is for client_max_body_size to refuse; its beginning is looked at.
    'SecRequestBodyLimitAction ProcessPartial',
    'SecResponseBodyLimit 524288',
    'SecResponseBodyLimitAction ProcessPartial',
    'SecResponseBodyMimeType text/plain text/html text/xml application/json',
    'SecPcreMatchLimit 100000',
    'SecPcreMatchLimitRecursion 100000',
    'SecAuditEngine Off',
    `SecDefaultAction "phase:1,log,auditlog,pass,status:${REFUSED}"`,
    `SecDefaultAction "phase:2,log,auditlog,pass,status:${REFUSED}"`,
    'SecAction "id:10001,phase:1,pass,nolog,setvar:tx.crs_setup_version=400"',
    'SecRule REQUEST_HEADERS:Content-Type "^(?:application(?:/soap\\+|/)|text/)xml" "id:10002,phase:1,t:none,t:lowercase,pass,nolog,ctl:requestBodyProcessor=XML"',
    'SecRule REQUEST_HEADERS:Content-Type "^application/(?:[a-z0-9.-]+\\+)?json" "id:10003,phase:1,t:none,t:lowercase,pass,nolog,ctl:requestBodyProcessor=JSON"',
    `Include ${directory}/rules/*.conf`,
  ])
}

/** Comes before the set in each phase. */
function policyRules(
  { paranoia, inboundThreshold, outboundThreshold, inspectResponses, exclusions }: CoreRuleSetSpec,
  mode: 'detect' | 'block',
) {
  const variables = {
    // By their names in the versions 3 and 4 of the set.
    paranoia_level: paranoia,
    executing_paranoia_level: paranoia,
    blocking_paranoia_level: paranoia,
    detection_paranoia_level: paranoia,
    inbound_anomaly_score_threshold: inboundThreshold,
    outbound_anomaly_score_threshold: outboundThreshold,
  }
  const settings = Object.entries(variables).map(([name, value]) => `setvar:tx.${name}=${value}`)
  return lines([
    `SecRuleEngine ${mode === 'block' ? 'On' : 'DetectionOnly'}`,
    `SecResponseBodyAccess ${inspectResponses ? 'On' : 'Off'}`,
    `SecAction "id:10100,phase:1,pass,nolog,${settings.join()}"`,
    ...Object.entries(exclusions)
      .toSorted(([a], [b]) => (a < b ? -1 : 1))
      .map(([, { rule, target, path }], index) => {
        const left = target === undefined ? `ctl:ruleRemoveById=${rule}` : `ctl:ruleRemoveTargetById=${rule};${target}`
        const actions = `id:${10_200 + index},phase:1,pass,nolog,${left}`
        if (path === undefined) return `SecAction "${actions}"`
        // What leads out of the path by .. or escapes is not below it.
        return `SecRule REQUEST_FILENAME "@beginsWith ${path}" "${actions},t:none,t:urlDecodeUni,t:normalizePath"`
      }),
  ])
}

function lines(all: readonly string[]): string {
  return `${all.join('\n')}\n`
}

function fault(message: string, hint: string): PolicyFault {
  return { code: 'unsupported', message, hint }
}
