// One search field over what the API can filter by. Pure.

const UUID = /^[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$/i;
const ID_START = /^[0-9a-f]{6,8}(-[0-9a-f-]{0,27})?$/i;
const LABEL = /^([A-Za-z0-9_.-]{1,64})\s*[=:]\s*(.+)$/;

/**
 * What a search asks for.
 *
 * - a whole id: that job;
 * - the beginning of an id: ids begin with the time of their making, so it is a span of time;
 * - `key=value`: a label; several are separated by commas;
 * - anything else: the label `name`.
 */
export function parseSearch(text) {
  const trimmed = text.trim();
  if (!trimmed) return { kind: "all", query: {} };
  if (UUID.test(trimmed)) return { kind: "id", id: trimmed.toLowerCase(), query: {} };
  if (ID_START.test(trimmed)) {
    const start = trimmed.toLowerCase();
    const digits = start.replaceAll("-", "").slice(0, 12);
    const first = Number.parseInt(digits.padEnd(12, "0"), 16);
    const last = Number.parseInt(digits.padEnd(12, "f"), 16) + 1;
    if (last < 8.64e15) {
      const query = {
        created_after: new Date(first).toISOString(),
        created_before: new Date(last).toISOString(),
      };
      return { kind: "start", start, query };
    }
  }
  const query = {};
  for (const part of trimmed.split(",")) {
    const found = LABEL.exec(part.trim());
    if (!found) return { kind: "name", query: { "metadata.name": trimmed } };
    query[`metadata.${found[1]}`] = found[2].trim();
  }
  return { kind: "labels", query };
}
