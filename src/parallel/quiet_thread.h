#pragma once

#include <pthread.h>

#include <csignal>
#include <thread>
#include <utility>

namespace pimoe {

/// A thread that no signal is delivered to: those for the process are for training's threads.
template <class Body>
std::thread quiet_thread(Body body) {
  sigset_t all;
  sigset_t before;
  sigfillset(&all);
  pthread_sigmask(SIG_SETMASK, &all, &before);
  std::thread thread(std::move(body));
  pthread_sigmask(SIG_SETMASK, &before, nullptr);
  return thread;
}

}  // namespace pimoe
