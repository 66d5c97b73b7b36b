// The address after the # says which view is open and how it is filtered, so that links and the
// back button work.
import { useEffect, useState } from "./ui.js";

export function parse(hash = location.hash) {
  const [path, query = ""] = hash.replace(/^#\/?/, "").split("?");
  const [view, id] = path.split("/");
  return {
    view: view || "now",
    id: id ? decodeURIComponent(id) : "",
    query: new URLSearchParams(query),
  };
}

export function link(view, { id = "", query = {} } = {}) {
  const kept = Object.entries(query).filter(([, value]) => value !== "" && value != null);
  const text = new URLSearchParams(kept).toString();
  return `#/${view}${id ? `/${encodeURIComponent(id)}` : ""}${text ? `?${text}` : ""}`;
}

export function go(view, more) {
  location.hash = link(view, more);
}

/**
 * `wanted` is set when another page was opened: its title then takes the focus, once it is there.
 * `search` has the search field of the list take it instead.
 */
export const focus = { wanted: false, search: false };

function placeOf({ view, id }) {
  return `${view}/${id}`;
}

export function useRoute() {
  const [route, setRoute] = useState(() => parse());
  useEffect(() => {
    let place = placeOf(parse());
    const changed = () => {
      const next = parse();
      if (placeOf(next) !== place) {
        place = placeOf(next);
        focus.wanted = true;
        scrollTo(0, 0);
      }
      setRoute(next);
    };
    addEventListener("hashchange", changed);
    return () => removeEventListener("hashchange", changed);
  }, []);
  return route;
}
