// Two videos as one: the result leads, the dance is kept beside it, and neither runs on alone.

const NEAR_SECONDS = 0.02; // a third of a frame: nobody sees it
const FAR_SECONDS = 0.4; // jumped over instead of caught up with
const PULL = 4; // how hard a small distance changes the speed
const END_SECONDS = 0.05;

function over(video) {
  return video.ended || video.currentTime >= (video.duration || Infinity) - END_SECONDS;
}

/** Whether a video has no next picture yet; the browser goes on loading what is to play. */
function waits(video) {
  return video.readyState < HTMLMediaElement.HAVE_FUTURE_DATA && !over(video);
}

/**
 * @param lead the video whose time counts
 * @param other the one that is kept beside it; null where there is only one
 * @param start where in `other` the lead begins, in seconds
 * @param onChange called when there is something new to show
 * @param onFault called with words when nothing can be played
 */
export function inStep({ lead, other, start, onChange, onFault }) {
  let wanted = false;
  let held = false; // the lead was paused here, and not by somebody's media key
  let refused = false; // the other may not play: it then stands still
  let frame = 0;

  function run(video, on) {
    if (!on) {
      if (video === lead && !video.paused) held = true;
      video.pause();
    } else if (video.paused) {
      video.play().catch((error) => {
        if (error.name === "AbortError") return; // Paused before it had begun.
        if (video === other) refused = true;
        else {
          wanted = false;
          onFault(error.message);
        }
      });
    }
  }

  function settle() {
    // A dance that is shorter than the result stands at its end; one that cannot be read is gone.
    const beside = other?.isConnected && !other.error && !refused && !over(other) ? other : null;
    const leadWaits = waits(lead);
    const otherWaits = beside !== null && waits(beside);
    run(lead, wanted && (leadWaits || !otherWaits));
    if (!beside) return;
    run(beside, wanted && (otherWaits || !leadWaits));
    if (beside.seeking) return;
    const late = lead.currentTime + start - beside.currentTime;
    const small = Math.abs(late) < NEAR_SECONDS;
    if (Math.abs(late) > FAR_SECONDS || (!wanted && !small)) {
      beside.currentTime = lead.currentTime + start;
    }
    beside.playbackRate = small ? 1 : Math.min(Math.max(1 + PULL * late, 0.5), 2);
  }

  function look() {
    if (lead.ended) wanted = false;
    settle();
    onChange();
    if (wanted && !frame) frame = requestAnimationFrame(again);
  }

  function again() {
    frame = 0;
    look();
  }

  function paused() {
    if (!held) wanted = false;
    held = false;
    look();
  }

  const names = ["loadedmetadata", "durationchange", "seeked", "waiting", "canplay", "ended"];
  const videos = other ? [lead, other] : [lead];
  for (const video of videos) for (const name of names) video.addEventListener(name, look);
  lead.addEventListener("pause", paused);

  return {
    get playing() {
      return wanted;
    },
    play() {
      wanted = true;
      look();
    },
    pause() {
      wanted = false;
      look();
    },
    /** Go to a time of the lead. */
    seek(at) {
      lead.currentTime = at;
      if (other) other.currentTime = at + start;
    },
    end() {
      cancelAnimationFrame(frame);
      for (const video of videos) for (const name of names) video.removeEventListener(name, look);
      lead.removeEventListener("pause", paused);
    },
  };
}
