// The one place that names the rendering library.
import htm from "../vendor/htm.js";
import { h, render } from "../vendor/preact.js";

export {
  useEffect,
  useErrorBoundary,
  useId,
  useLayoutEffect,
  useMemo,
  useRef,
  useState,
} from "../vendor/preact-hooks.js";

export const html = htm.bind(h);
export { render };
