// A custom runtime in C++ with nothing but sockets: asks for an event, answers with it in capitals, asks again.
// Built as c++ -O1 -static-libstdc++ -static-libgcc -o bootstrap main.cpp

#include <arpa/inet.h>
#include <cctype>
#include <cstdlib>
#include <netinet/in.h>
#include <stdexcept>
#include <string>
#include <strings.h>
#include <sys/socket.h>
#include <unistd.h>

namespace {

const std::string base = "/2018-06-01/runtime/invocation/";

// The API at AWS_LAMBDA_RUNTIME_API, on one connection.
class Api {
public:
    explicit Api(const std::string& address) : host(address), socket_(socket(AF_INET, SOCK_STREAM, 0)) {
        const auto colon = address.rfind(':');
        sockaddr_in to{};
        to.sin_family = AF_INET;
        to.sin_port = htons(static_cast<uint16_t>(std::stoi(address.substr(colon + 1))));
        inet_pton(AF_INET, address.substr(0, colon).c_str(), &to.sin_addr);
        if (connect(socket_, reinterpret_cast<sockaddr*>(&to), sizeof to) != 0) throw std::runtime_error("cannot connect");
    }

    struct Answer {
        std::string head, body;

        std::string header(const std::string& name) const {
            for (size_t at = head.find("\r\n"); at != std::string::npos; at = head.find("\r\n", at + 2))
                if (strncasecmp(head.c_str() + at + 2, (name + ":").c_str(), name.size() + 1) == 0) {
                    const size_t from = head.find_first_not_of(' ', at + 3 + name.size());
                    return head.substr(from, head.find("\r\n", from) - from);
                }
            return "";
        }
    };

    Answer ask(const std::string& method, const std::string& path, const std::string& body = "") {
        std::string out = method + " " + path + " HTTP/1.1\r\nHost: " + host + "\r\n";
        if (method == "POST") out += "Content-Type: application/json\r\nContent-Length: " + std::to_string(body.size()) + "\r\n";
        out += "\r\n" + body;
        for (size_t sent = 0; sent < out.size();) {
            const ssize_t n = send(socket_, out.data() + sent, out.size() - sent, MSG_NOSIGNAL);
            if (n <= 0) throw std::runtime_error("cannot send");
            sent += static_cast<size_t>(n);
        }
        size_t end;
        while ((end = in.find("\r\n\r\n")) == std::string::npos) read();
        Answer answer{in.substr(0, end + 2), ""};
        const size_t size = std::stoul(answer.header("Content-Length"));
        while (in.size() < end + 4 + size) read();
        answer.body = in.substr(end + 4, size);
        in.erase(0, end + 4 + size);
        return answer;
    }

private:
    void read() {
        char buffer[65536];
        const ssize_t n = recv(socket_, buffer, sizeof buffer, 0);
        if (n <= 0) throw std::runtime_error("the API has ended");
        in.append(buffer, static_cast<size_t>(n));
    }

    std::string host, in;
    int socket_;
};

}  // namespace

int main() {
    Api api(std::getenv("AWS_LAMBDA_RUNTIME_API"));
    for (;;) {
        const auto event = api.ask("GET", base + "next");
        const auto id = event.header("Lambda-Runtime-Aws-Request-Id");
        if (event.body == "\"fail\"") {
            api.ask("POST", base + id + "/error", R"({"errorType":"Failed","errorMessage":"as asked"})");
            continue;
        }
        std::string said = event.body;
        for (char& c : said) c = static_cast<char>(std::toupper(static_cast<unsigned char>(c)));
        api.ask("POST", base + id + "/response", said);
    }
}
