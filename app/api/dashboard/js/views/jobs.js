// The list of jobs: filters, search, pages by cursor.
import { jobTitle, left, percent } from "../format.js";
import { Age, doing, Missing, Progress, Status, STATUSES, Title } from "../parts/bits.js";
import { parseSearch } from "../parts/search.js";
import { useOwners } from "../parts/who.js";
import { usePoll } from "../poll.js";
import { focus, go, link } from "../router.js";
import { html, useEffect, useState } from "../ui.js";

const PAGE = 50;

function filtersOf(query) {
  return {
    status: query.get("status") || "",
    workflow: query.get("workflow") || "",
    day: query.get("day") || "",
    q: query.get("q") || "",
    cursor: query.get("cursor") || "",
    page: query.get("page") || "",
  };
}

function pathOf(filters) {
  const search = parseSearch(filters.q);
  if (search.kind === "id") return `/v1/jobs/${search.id}`;
  const asked = new URLSearchParams({ limit: PAGE, ...search.query });
  if (filters.status) asked.set("status", filters.status);
  if (filters.workflow) asked.set("workflow", filters.workflow);
  if (filters.day && !search.query.created_before) asked.set("created_before", endOf(filters.day));
  if (filters.cursor) asked.set("cursor", filters.cursor);
  return `/v1/jobs?${asked}`;
}

/** The end of a day as the person who looks counts days. */
function endOf(day) {
  const date = new Date(`${day}T00:00:00`);
  if (Number.isNaN(date.getTime())) return new Date().toISOString();
  date.setDate(date.getDate() + 1);
  return date.toISOString();
}

export function JobsView({ query }) {
  const filters = filtersOf(query);
  const { data, error } = usePoll(pathOf(filters), { every: 3000 });
  const { data: workflows } = usePoll("/v1/workflows", { every: 60000 });
  const search = parseSearch(filters.q);
  const found = data?.jobs || (data ? [data] : []);
  // A start of an id that is longer than the time in it is held against the whole id.
  const jobs =
    search.kind === "start" ? found.filter((job) => job.id.startsWith(search.start)) : found;
  const missing = error?.status === 404 && search.kind === "id";

  return html`<div class="page wide">
    <div class="page-head">
      <${Title}>Jobs<//>
      <a class="button primary" href="#/new">New job</a>
    </div>
    <${Filters} filters=${filters} workflows=${workflows?.workflows || []} />
    ${
      data || missing
        ? html`<${Table} jobs=${missing ? [] : jobs} filtered=${Boolean(filters.q || filters.status || filters.workflow || filters.day)} />
            <${Pages} filters=${filters} next=${data?.next_cursor} />`
        : html`<${Missing} error=${error} what="the jobs" />`
    }
  </div>`;
}

function Filters({ filters, workflows }) {
  const [text, setText] = useState(filters.q);
  useEffect(() => setText(filters.q), [filters.q]);
  useEffect(() => {
    if (focus.search) document.getElementById("job-search").focus();
    focus.search = false;
  }, []);
  const change = (more) => go("jobs", { query: { ...filters, cursor: "", page: "", ...more } });
  const submit = (event) => {
    event.preventDefault();
    change({ q: text.trim() });
  };
  return html`<form class="filters" role="search" onSubmit=${submit}>
    <div class="field grow">
      <label for="job-search">Search</label>
      <input
        id="job-search"
        type="search"
        placeholder="Id, start of an id, name, or label=value"
        value=${text}
        onInput=${(event) => {
          setText(event.target.value);
          if (!event.target.value && filters.q) change({ q: "" });
        }}
      />
    </div>
    <${Choice} id="filter-status" label="Status" value=${filters.status} options=${STATUSES} onChange=${(status) => change({ status })} />
    <${Choice}
      id="filter-workflow"
      label="Workflow"
      value=${filters.workflow}
      options=${workflows.map((one) => [one.name, one.title])}
      onChange=${(workflow) => change({ workflow })}
    />
    <div class="field">
      <label for="filter-day">Up to the day</label>
      <input id="filter-day" type="date" value=${filters.day} onChange=${(event) => change({ day: event.target.value })} />
    </div>
    <button class="button">Search</button>
  </form>`;
}

function Choice({ id, label, value, options, onChange }) {
  return html`<div class="field">
    <label for=${id}>${label}</label>
    <select id=${id} value=${value} onChange=${(event) => onChange(event.target.value)}>
      <option value="" selected=${value === ""}>All</option>
      ${options.map(([name, title]) => html`<option value=${name} selected=${value === name}>${title}</option>`)}
    </select>
  </div>`;
}

function Table({ jobs, filtered }) {
  const ownerOf = useOwners();
  if (!jobs.length) {
    return html`<div class="empty">
      ${
        filtered
          ? html`<p>No job matches. <a href="#/jobs">Show all jobs</a></p>`
          : html`<p>No jobs yet.</p>
              <p><a class="button primary" href="#/new">Make the first one</a></p>`
      }
    </div>`;
  }
  return html`<div class="table-scroll">
    <table class="jobs">
      <caption class="visually-hidden">Jobs, newest first</caption>
      <thead>
        <tr>
          <th scope="col" class="col-poster"><span class="visually-hidden">Picture</span></th>
          <th scope="col">Job</th>
          <th scope="col" class="col-status">Status</th>
          <th scope="col" class="col-progress">Progress</th>
          <th scope="col" class="col-labels">Labels</th>
          <th scope="col" class="col-age numeric">Age</th>
        </tr>
      </thead>
      <tbody>
        ${jobs.map((job) => html`<${Row} key=${job.id} job=${job} owner=${ownerOf(job)} />`)}
      </tbody>
    </table>
  </div>`;
}

function Row({ job, owner }) {
  const poster = job.artifacts.find((one) => one.name === "poster");
  const open = job.status === "queued" || job.status === "running";
  const labels = Object.entries(job.metadata).filter(([name]) => name !== "name");
  const prompt = job.metadata.name ? job.request.prompt : "";
  const facts = [
    job.workflow,
    owner && `by ${owner}`,
    job.priority && `priority ${job.priority}`,
    job.attempt > 1 && `attempt ${job.attempt}`,
  ];
  return html`<tr onClick=${opened(job)}>
    <td class="col-poster">
      ${poster ? html`<img src=${poster.url} alt="" loading="lazy" decoding="async" width="36" height="48" />` : html`<span class="no-poster"></span>`}
    </td>
    <td class="col-job">
      <div class="one-line">
        <a data-row-link href=${link("job", { id: job.id })}>${jobTitle(job)}</a>
        ${prompt && html`<span class="quiet prompt" title=${prompt}>${prompt}</span>`}
      </div>
      <span class="quiet one-line"
        ><span class="id">${job.id.slice(0, 13)}</span> · ${facts.filter(Boolean).join(" · ")}</span
      >
    </td>
    <td class="col-status"><${Status} job=${job} /><span class="quiet one-line">${doing(job)}</span></td>
    <td class="col-progress">
      ${
        open &&
        html`<${Progress} job=${job} label=${`Progress of ${jobTitle(job)}`} />
          <span class="quiet number one-line"
            >${[percent(job.progress.fraction), left(job.progress.eta_seconds)].filter(Boolean).join(" · ")}</span
          >`
      }
    </td>
    <td class="col-labels">
      <span class="quiet one-line" title=${labels.map((one) => one.join("=")).join(", ")}
        >${labels.map(([name, value]) => `${name} ${value}`).join(", ")}</span
      >
    </td>
    <td class="col-age numeric"><${Age} time=${job.created_at} /></td>
  </tr>`;
}

/** The whole row opens the job, for the mouse; the link in it is what keys and readers use. */
function opened(job) {
  return (event) => {
    if (event.target.closest("a") || getSelection().toString()) return;
    if (event.metaKey || event.ctrlKey) open(link("job", { id: job.id }), "_blank", "noopener");
    else go("job", { id: job.id });
  };
}

function Pages({ filters, next }) {
  const page = Number(filters.page) || 1;
  if (page === 1 && !next) return html`<div class="pages"></div>`;
  return html`<nav class="pages" aria-label="Pages">
    ${
      page > 1
        ? html`<a class="button" href=${link("jobs", { query: { ...filters, cursor: "", page: "" } })}>Newest</a>
            <button type="button" class="button" onClick=${() => history.back()}>Back</button>`
        : null
    }
    <span class="quiet number">Page ${page}</span>
    ${
      next
        ? html`<a class="button" rel="next" href=${link("jobs", { query: { ...filters, cursor: next, page: page + 1 } })}>Older</a>`
        : html`<span class="quiet">The oldest</span>`
    }
  </nav>`;
}
