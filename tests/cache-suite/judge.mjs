// node judge.mjs SUITE KNOWN CONFIG RESULT...: what of the suite has passed in any of these results, and what
// should have. Status 1 when something fails that KNOWN does not explain.
import fs from 'node:fs'
import { pathToFileURL } from 'node:url'

const [suite, known, config, ...results] = process.argv.slice(2)
const load = async name => (await import(pathToFileURL(`${suite}/tests/${name}.mjs`))).default
const groups = [...await load('index'), await load('surrogate-control')]
const tests = new Map(groups.flatMap(group => group.tests)
  .filter(test => !test.browser_only).map(test => [test.id, test]))

// Lines of `CONFIGS IDS why`; a `*` in both is anything, configs are parted by commas.
const escaped = text => text.replace(/[.+?^${}()|[\]\\]/g, '\\$&')
const fits = (pattern, text) => new RegExp(`^${pattern.split('*').map(escaped).join('.*')}$`).test(text)
const reasons = fs.readFileSync(known, 'utf8').split('\n')
  .filter(line => line && !line.startsWith('#')).map(line => line.split(/\s+/))
  .filter(([configs]) => configs.split(',').some(name => fits(name, config)))
const isKnown = id => reasons.some(([, ids]) => fits(ids, id))

const runs = results.map(file => JSON.parse(fs.readFileSync(file, 'utf8')))
const hasPassed = id => runs.some(run => run[id] === true)
// The suite's own way of counting: what a test builds on has to have passed as well.
const counts = id => hasPassed(id) &&
  (tests.get(id).depends_on ?? []).every(other => !tests.has(other) || counts(other))

const said = []
for (const kind of ['required', 'optimal', 'check']) {
  const ids = [...tests.values()].filter(test => (test.kind ?? 'required') === kind).map(test => test.id)
  const [passed, counted] = [ids.filter(hasPassed), ids.filter(counts)]
  said.push(`${kind} ${passed.length} of ${ids.length} (${counted.length} with what they build on)`)
}
console.log(`cache-suite: ${config}: ${said.join(', ')}`)

const missing = [...tests.values()].filter(test => test.kind !== 'check' && !hasPassed(test.id))
const news = missing.filter(test => !isKnown(test.id))
for (const test of news) {
  console.log(`cache-suite: ${config}: ${test.kind ?? 'required'} ${test.id}: ${runs.at(-1)[test.id]}`)
}
for (const [, ids] of reasons) {
  const those = [...tests.keys()].filter(id => fits(ids, id))
  if (those.length === 0 || those.every(hasPassed)) console.log(`cache-suite: ${config}: ${ids} passes; take it out of known`)
}
process.exit(news.length > 0 ? 1 : 0)
